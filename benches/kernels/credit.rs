//! Credit: advantages and Shapley values.

use crate::measure::{Bench, Work};
use haggle::device::DType;
use haggle::ops::credit::{GroupAdvantage, group_advantage, shapley_max, shapley_table};

/// group_advantage, shapley_max of a million sets of 16, shapley_table.
pub fn credit(bench: &mut Bench) {
    let (n, g) = (1 << 16, 8);
    let (rewards, mut advantage, mut constant) =
        (bench.noise(n * g), bench.zeros(n * g), bench.dev.zeros(DType::I32, n));
    bench.op("group_advantage", &format!("n {n} G {g}"), Work::Bytes((8 * n * g + 4 * n) as f64), |dev| {
        let how = GroupAdvantage { divide_by_std: true };
        group_advantage(dev, rewards.view(), advantage.view_mut(), constant.view_mut(), g, how)
            .expect("shapes are right");
    });
    for (n, k) in [(1_000_000, 16), (250_000, 32)] {
        let (utility, mut phi) = (bench.noise(n * k), bench.zeros(n * k));
        bench.op("shapley_max", &format!("n {n} K {k}"), Work::Bytes((8 * n * k) as f64), |dev| {
            shapley_max(dev, utility.view(), phi.view_mut(), k).expect("shapes are right");
        });
    }
    for (n, k) in [(4096, 8), (16, 16)] {
        let (values, mut phi) = (bench.noise(n << k), bench.zeros(n * k));
        bench.op("shapley_table", &format!("n {n} K {k}"), Work::Bytes(((n << k) * 4 * k) as f64), |dev| {
            shapley_table(dev, values.view(), phi.view_mut(), k).expect("shapes are right");
        });
    }
}
