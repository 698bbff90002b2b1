//! Credit on the CPU: whole groups and sets are tasks, sums inside them run in f64 in the order of the kernels.

use crate::device::cpu::Cpu;
use crate::device::cpu::pool::Shared;
use crate::ops::credit::{GroupAdvantage, MAX_SET, MAX_TABLE, STD_EPS};

/// Numbers a task works on, about.
const TASK: usize = 1 << 13;
/// Chains of a sum over sets: as many as threads of a block of the kernel.
const LANES: usize = 256;

/// Calls `one(i)` for every `i` in `0..n`, some at a time, in parallel.
fn each(cpu: &Cpu, n: usize, width: usize, one: impl Fn(usize) + Sync) {
    let part = (TASK / width.max(1)).max(1);
    cpu.pool.run(n.div_ceil(part), |task| (task * part..n.min((task + 1) * part)).for_each(&one));
}

/// See [`crate::ops::credit::group_advantage`].
pub fn group_advantage(
    cpu: &Cpu,
    rewards: &[f32],
    advantage: &mut [f32],
    constant: &mut [i32],
    group: usize,
    how: GroupAdvantage,
) {
    let n = constant.len();
    let (advantage, constant) = (Shared::new(advantage), Shared::new(constant));
    each(cpu, n, group, |i| {
        // SAFETY: each group is one task's.
        let (a, c) = unsafe { (advantage.part(i * group, group), constant.part(i, 1)) };
        c[0] = one_group(&rewards[i * group..][..group], how, a) as i32;
    });
}

/// Advantages of one group; true when it is constant.
pub fn one_group(rewards: &[f32], how: GroupAdvantage, advantage: &mut [f32]) -> bool {
    if rewards.iter().all(|r| *r == rewards[0]) {
        advantage.fill(0.0);
        return true;
    }
    let n = rewards.len() as f64;
    let mean = rewards.iter().fold(0f64, |s, r| s + *r as f64) / n;
    let squares = rewards.iter().fold(0f64, |s, r| s + (*r as f64 - mean) * (*r as f64 - mean));
    let scale = if how.divide_by_std { 1.0 / ((squares / n).sqrt() + STD_EPS) } else { 1.0 };
    for (a, r) in advantage.iter_mut().zip(rewards) {
        *a = ((*r as f64 - mean) * scale) as f32;
    }
    false
}

/// See [`crate::ops::credit::shapley_max`].
pub fn shapley_max(cpu: &Cpu, utility: &[f32], phi: &mut [f32], k: usize) {
    let phi = Shared::new(phi);
    each(cpu, utility.len() / k, k, |i| {
        // SAFETY: each set is one task's.
        let phi = unsafe { phi.part(i * k, k) };
        set_max(&utility[i * k..][..k], phi);
    });
}

/// A number that orders floats as integers; both zeros are one, every NaN is the largest.
fn rank(u: f32) -> i32 {
    let bits = (u + 0.0).to_bits() as i32;
    if u.is_nan() { i32::MAX } else { bits ^ (((bits >> 31) as u32) >> 1) as i32 }
}

fn set_max(utility: &[f32], phi: &mut [f32]) {
    let mut order = [0u64; MAX_SET];
    let order = &mut order[..utility.len()];
    for (i, (key, u)) in order.iter_mut().zip(utility).enumerate() {
        // Ascending by utility, then by place: one integer, the sign turned so that it sorts unsigned.
        *key = ((rank(*u) as u32 ^ 1 << 31) as u64) << 32 | i as u64;
    }
    order.sort_unstable();
    let (mut before, mut share) = (0f64, 0f64);
    for (j, key) in order.iter().enumerate() {
        let who = *key as u32 as usize;
        let u = utility[who] as f64;
        share += (u - before) / (utility.len() - j) as f64;
        (before, phi[who]) = (u, share as f32);
    }
}

/// See [`crate::ops::credit::shapley_table`].
pub fn shapley_table(cpu: &Cpu, values: &[f32], phi: &mut [f32], k: usize) {
    let (weight, n) = (weights(k), phi.len());
    let phi = Shared::new(phi);
    each(cpu, n, 1 << (k - 1), |at| {
        let values = &values[(at / k) << k..][..1 << k];
        // SAFETY: each value is one task's.
        let phi = unsafe { phi.part(at, 1) };
        phi[0] = table_value(values, k, at % k, &weight) as f32;
    });
}

/// `|S|! (K - |S| - 1)! / K!` by size: one over K times the number of such sets.
fn weights(k: usize) -> [f64; MAX_TABLE] {
    let (mut weight, mut sets) = ([0f64; MAX_TABLE], 1f64);
    for size in 0..k {
        weight[size] = 1.0 / (k as f64 * sets);
        sets = sets * (k - 1 - size) as f64 / (size + 1) as f64;
    }
    weight
}

/// phi of one candidate: sets by index modulo [`LANES`] in ascending order, then a tree of halves.
fn table_value(values: &[f32], k: usize, who: usize, weight: &[f64; MAX_TABLE]) -> f64 {
    let mut lanes = [0f64; LANES];
    let low = (1usize << who) - 1;
    for m in 0..1usize << (k - 1) {
        let without = (m & !low) << 1 | m & low;
        let added = values[without | 1 << who] as f64 - values[without] as f64;
        lanes[m % LANES] += weight[m.count_ones() as usize] * added;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}
