//! GDPO: several rewards, each normalised in its group before they are summed, so that none drowns another.
//!
//! `A_k = (r_k - mean_group) / (std_group + eps)`, `A = sum_k w_k A_k`, then `(A - mean) / (std + eps)` over the batch.
//!
//! Source: Liu et al. 2026, arXiv:2601.05242, with eps = 1e-4 as in the authors' code.
//! Differs: standard deviations divide by n, not n - 1, as everywhere here.

use super::reinforce_pp::whiten;
use super::{groups, groups_mut};

/// Added to standard deviations before dividing.
pub const GDPO_EPS: f64 = 1e-4;

/// Advantages of a batch: `rewards [R]`, one list a reward, of groups of these sizes; `weight [R]`.
pub fn gdpo(rewards: &[Vec<f64>], weight: &[f64], sizes: &[usize], advantage: &mut [f64]) {
    advantage.fill(0.0);
    for (rewards, weight) in rewards.iter().zip(weight) {
        for (rewards, advantage) in groups(rewards, sizes).zip(groups_mut(advantage, sizes)) {
            let mut normal = rewards.to_vec();
            whiten(&mut normal, &vec![1.0; rewards.len()], GDPO_EPS);
            advantage.iter_mut().zip(normal).for_each(|(a, n)| *a += weight * n);
        }
    }
    let each = vec![1.0; advantage.len()];
    whiten(advantage, &each, GDPO_EPS);
}
