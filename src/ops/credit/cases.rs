//! Cases of credit, f32 whatever the model is: one reward, constant groups, sets of one warp and of more, the widest.

use super::{GroupAdvantage, MAX_SET, cost, group_advantage, oracle, shapley_max, shapley_table};
use crate::device::DType;
use crate::error::Result;
use crate::ops::case::{Floor, Stage};

const FLOOR_ADVANTAGE: Floor = [5.1e-8, 0.0];
const FLOOR_PHI: Floor = [5.1e-8, 0.0];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    if s.dtype != DType::F32 && !s.times() {
        return Ok(());
    }
    let odd = [(1, 1), (3, 2), (17, 8), (5, 63), (1, 1000)];
    for (n, g) in s.shapes(&[(33, 8)], &odd, |_| vec![(1 << 10, 8), (1 << 16, 8)]) {
        advantages(s, n, g, true)?;
        if !s.times() {
            advantages(s, n, g, false)?;
        }
    }
    let odd = [(1, 1), (4, 2), (9, 5), (3, 8), (7, 16), (5, 31), (6, 32), (3, 33), (2, 257), (1, MAX_SET)];
    for (n, k) in s.shapes(&[(20, 16), (3, 50)], &odd, |_| vec![(1000, 16), (1_000_000, 16), (1000, 32)]) {
        best(s, n, k)?;
    }
    let odd = [(1, 1), (3, 2), (4, 5), (2, 8), (3, 10), (1, 16)];
    for (n, k) in s.shapes(&[(3, 6)], &odd, |_| vec![(64, 8), (1, 16)]) {
        table(s, n, k)?;
    }
    Ok(())
}

fn advantages(s: &mut Stage, n: usize, g: usize, divide_by_std: bool) -> Result<()> {
    if !s.wants(&["group_advantage"]) {
        return Ok(());
    }
    let normal = s.input_f32(n * g)?;
    let mut rewards: Vec<f32> = s.dev.download(normal.buffer.view())?;
    rewards[..g].fill(0.3);
    let (rewards, mut advantage) = (s.tensor(&rewards, DType::F32)?, s.out_f32(n * g)?);
    let (mut constant, how) = (s.dev.zeros(DType::I32, n)?, GroupAdvantage { divide_by_std });
    s.call("group_advantage", "", cost::group_advantage(n, g), |dev| {
        group_advantage(dev, rewards.buffer.view(), advantage.view_mut(), constant.view_mut(), g, how)
    })?;
    s.holds("advantage", &advantage, FLOOR_ADVANTAGE, || oracle::group_advantage(&rewards.values, g, how));
    s.exactly("the first group is constant, and so is a group of one", |dev| {
        let constant = dev.download::<i32>(constant.view())?;
        let zero = dev.download::<f32>(advantage.view())?[..g].iter().all(|a| *a == 0.0);
        Ok(zero && constant[0] == 1 && constant[1..].iter().all(|c| *c == i32::from(g == 1)))
    })
}

fn best(s: &mut Stage, n: usize, k: usize) -> Result<()> {
    if !s.wants(&["shapley_max"]) {
        return Ok(());
    }
    let (utility, mut phi) = (s.input_f32(n * k)?, s.out_f32(n * k)?);
    s.call("shapley_max", "", cost::shapley_max(n, k), |dev| {
        shapley_max(dev, utility.buffer.view(), phi.view_mut(), k)
    })?;
    s.holds("phi", &phi, FLOOR_PHI, || utility.values.chunks(k).flat_map(oracle::shapley_max).collect());
    if k <= 8 {
        let best = |u: &[f64], set: usize| match (0..k).filter(|i| set >> i & 1 == 1).map(|i| u[i]) {
            of if set > 0 => of.fold(f64::NEG_INFINITY, f64::max),
            _ => 0.0,
        };
        let orders = |u: &[f64]| oracle::shapley_orders(k, |set| best(u, set));
        s.holds("phi by every order", &phi, FLOOR_PHI, || utility.values.chunks(k).flat_map(orders).collect());
    }
    Ok(())
}

fn table(s: &mut Stage, n: usize, k: usize) -> Result<()> {
    if !s.wants(&["shapley_table"]) {
        return Ok(());
    }
    let (values, mut phi) = (s.input_f32(n << k)?, s.out_f32(n * k)?);
    s.call("shapley_table", "", cost::shapley_table(n, k), |dev| {
        shapley_table(dev, values.buffer.view(), phi.view_mut(), k)
    })?;
    let games = || values.values.chunks(1 << k);
    s.holds("phi", &phi, FLOOR_PHI, || games().flat_map(|v| oracle::shapley_table(v, k)).collect());
    if k <= 8 {
        let orders = |v: &[f64]| oracle::shapley_orders(k, |set| v[set]);
        s.holds("phi by every order", &phi, FLOOR_PHI, || games().flat_map(orders).collect());
    }
    Ok(())
}
