//! group_advantage, shapley_max, shapley_table: the same bits everywhere, ties and NaN, refusals. The oracle: ops_cases.

use crate::support::*;
use haggle::device::{DType, Device};
use haggle::noise::Noise;
use haggle::ops::credit::*;

/// CPUs and kernels.
fn everywhere() -> impl Iterator<Item = (String, Device)> {
    devices().into_iter().chain(kernel_devices())
}

/// Advantages and the constant groups.
fn advantages(dev: &Device, rewards: &[f32], group: usize, divide_by_std: bool) -> (Vec<f32>, Vec<i32>) {
    let (mut a, mut constant) =
        (poisoned(dev, rewards.len()), dev.upload(&vec![-1i32; rewards.len() / group]).unwrap());
    let how = GroupAdvantage { divide_by_std };
    group_advantage(dev, dev.upload(rewards).unwrap().view(), a.view_mut(), constant.view_mut(), group, how).unwrap();
    (take(dev, &a), dev.to_vec(constant.view()))
}

fn by_max(dev: &Device, utility: &[f32], k: usize) -> Vec<f32> {
    let mut phi = poisoned(dev, utility.len());
    shapley_max(dev, dev.upload(utility).unwrap().view(), phi.view_mut(), k).unwrap();
    take(dev, &phi)
}

fn by_table(dev: &Device, values: &[f32], k: usize) -> Vec<f32> {
    let mut phi = poisoned(dev, (values.len() >> k) * k);
    shapley_table(dev, dev.upload(values).unwrap().view(), phi.view_mut(), k).unwrap();
    take(dev, &phi)
}

/// Rewards with ties and negative ones: hundredths in [-1, 1].
fn rewards(len: usize, stream: u64) -> Vec<f32> {
    let noise = Noise::new(5, stream);
    (0..len as u64).map(|i| noise.below(i, 201) as f32 / 100.0 - 1.0).collect()
}

#[test]
fn shapley_max_of_ties_zeros_and_nan() {
    for (name, dev) in everywhere() {
        let got = by_max(&dev, &[0.5, 0.2, 0.5, -0.0, 0.5, 0.0], 6);
        assert!(got[0] == got[2] && got[2] == got[4] && got[3] == 0.0 && got[5] == 0.0, "{name}: {got:?}");
        let got = by_max(&dev, &[f32::NAN, 0.25, -0.5, f32::NAN], 4);
        assert!(got[0].is_nan() && got[3].is_nan(), "{name}: {got:?}");
        assert_eq!(got[1..3], [-0.125 + 0.25, -0.125], "{name}");
    }
}

#[test]
fn shapley_table_of_the_best_is_shapley_max() {
    let (k, dev) = (12, cpu(2));
    let u = rewards(k, 9);
    let best = |set: usize| (0..k).filter(|i| set >> i & 1 == 1).map(|i| u[i]).fold(f32::NEG_INFINITY, f32::max);
    let v: Vec<f32> = (0..1 << k).map(|s| if s == 0 { 0.0 } else { best(s) }).collect();
    near("shapley_table", &[k], &wide(&by_max(&dev, &u, k)), &by_table(&dev, &v, k), 4.9e-8);
}

#[test]
fn bits_depend_on_no_device_no_thread_and_no_neighbour() {
    let (r, v) = (rewards(50 * 16, 3), normal(3 << 9, 4));
    let mut first: Option<[Vec<f32>; 3]> = None;
    for (name, dev) in everywhere() {
        let got = [advantages(&dev, &r, 16, true).0, by_max(&dev, &r, 16), by_table(&dev, &v, 9)];
        let want = first.get_or_insert_with(|| got.clone());
        for (i, stem) in ["group_advantage", "shapley_max", "shapley_table"].into_iter().enumerate() {
            same(stem, &name, &[got[i].len()], &want[i], &got[i]);
        }
        same("group_advantage", "alone", &[16], &got[0][32..48], &advantages(&dev, &r[32..48], 16, true).0);
        same("shapley_max", "alone", &[16], &got[1][32..48], &by_max(&dev, &r[32..48], 16));
        same("shapley_table", "alone", &[9], &got[2][9..18], &by_table(&dev, &v[512..1024], 9));
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let dev = cpu(1);
    let (a, mut b, mut c) =
        (dev.zeros(DType::F32, 12).unwrap(), dev.zeros(DType::F32, 12).unwrap(), dev.zeros(DType::I32, 4).unwrap());
    let how = GroupAdvantage { divide_by_std: true };
    refused(group_advantage(&dev, a.view(), b.view_mut(), c.view_mut(), 4, how), "group_advantage", "rewards");
    refused(group_advantage(&dev, a.view(), b.view_mut(), c.view_mut(), 0, how), "group_advantage", "G");
    refused(shapley_max(&dev, a.view(), b.view_mut(), 0), "shapley_max", "K");
    refused(shapley_max(&dev, a.view(), b.view_mut(), MAX_SET + 1), "shapley_max", "K");
    refused(shapley_max(&dev, a.view(), b.view_mut(), 5), "shapley_max", "utility");
    refused(shapley_max(&dev, a.view(), b.at_mut(0..8), 4), "shapley_max", "phi");
    refused(shapley_table(&dev, a.view(), b.view_mut(), 17), "shapley_table", "K");
    refused(shapley_table(&dev, a.view(), b.view_mut(), 5), "shapley_table", "phi");
    refused(shapley_table(&dev, a.view(), b.view_mut(), 2), "shapley_table", "values");
}
