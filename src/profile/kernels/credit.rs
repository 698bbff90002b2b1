//! Credit: advantages, Shapley values, the policy's loss.

use super::Bench;
use crate::device::DType;
use crate::error::Result;
use crate::ops::cost;
use crate::ops::credit::{GroupAdvantage, group_advantage, shapley_max, shapley_table};
use crate::ops::loss::{POLICY_SUMS, PolicyLoss, policy_loss};

/// group_advantage, shapley_max up to a million sets of 16, shapley_table, policy_loss.
pub fn credit(bench: &mut Bench) -> Result<()> {
    for n in bench.sizes([1 << 10, 1 << 16]) {
        advantage(bench, n, 8)?;
    }
    for (n, k) in bench.sizes([1000, 1_000_000]).into_iter().zip([16, 16]).chain([(1000, 32)]) {
        if bench.wants("shapley_max") {
            let (utility, mut phi) = (bench.noise_f32(n * k)?, bench.zeros_f32(n * k)?);
            let cost = cost::shapley_max(n, k);
            bench.op("shapley_max", "", cost, |dev| shapley_max(dev, utility.view(), phi.view_mut(), k))?;
        }
    }
    for (n, k) in [(64, 8), (1, 16)] {
        let (values, mut phi) = (bench.noise_f32(n << k)?, bench.zeros_f32(n * k)?);
        let cost = cost::shapley_table(n, k);
        bench.op("shapley_table", "", cost, |dev| shapley_table(dev, values.view(), phi.view_mut(), k))?;
    }
    for n in bench.sizes([512, 8192]) {
        loss(bench, n)?;
    }
    Ok(())
}

fn advantage(bench: &mut Bench, n: usize, g: usize) -> Result<()> {
    let (rewards, mut advantage) = (bench.noise_f32(n * g)?, bench.zeros_f32(n * g)?);
    let mut constant = bench.dev.zeros(DType::I32, n)?;
    bench.op("group_advantage", "", cost::group_advantage(n, g), |dev| {
        let how = GroupAdvantage { divide_by_std: true };
        group_advantage(dev, rewards.view(), advantage.view_mut(), constant.view_mut(), g, how)
    })
}

fn loss(bench: &mut Bench, n: usize) -> Result<()> {
    let real = || bench.noise_f32(n);
    let [lp, old, reference, a, w, h] = [real()?, real()?, real()?, real()?, real()?, real()?];
    let [mut dlp, mut dh] = [bench.zeros_f32(n)?, bench.zeros_f32(n)?];
    let mut sums = bench.zeros_f32(POLICY_SUMS.len())?;
    bench.op("policy_loss", "", cost::policy_loss(n), |dev| {
        let (lp, old, reference) = (lp.view(), old.view(), reference.view());
        let (a, w, h, dlp, dh) = (a.view(), w.view(), h.view(), dlp.view_mut(), dh.view_mut());
        policy_loss(dev, lp, old, reference, a, w, h, dlp, dh, sums.view_mut(), PolicyLoss::default())
    })
}
