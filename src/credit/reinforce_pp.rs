//! REINFORCE++: advantages whitened over all trained tokens of the batch, not inside the group.
//!
//! `A_i = (x_i - mean) / (std + eps)`, mean and standard deviation over tokens: each rollout counts as often as it has
//! tokens. `x` is the reward, or, in the baseline form, the reward minus its group's mean.
//!
//! Source: Hu et al. 2025, arXiv:2501.03262.
//! Differs: the return is not discounted and the KL is no part of it (`loss.kl_in = "reward"` puts it there).

use super::groups_mut;

/// Added to the standard deviation before dividing.
pub const WHITEN_EPS: f64 = 1e-8;

/// Advantages of a batch, rewards and lengths of groups of these sizes; `baseline` takes each group's mean off first.
pub fn reinforce_pp(rewards: &[f64], lengths: &[usize], sizes: &[usize], baseline: bool, advantage: &mut [f64]) {
    advantage.copy_from_slice(rewards);
    if baseline {
        for chunk in groups_mut(advantage, sizes) {
            let mean = chunk.iter().sum::<f64>() / chunk.len() as f64;
            chunk.iter_mut().for_each(|a| *a -= mean);
        }
    }
    let weights: Vec<f64> = lengths.iter().map(|l| *l as f64).collect();
    whiten(advantage, &weights, WHITEN_EPS);
}

/// To weighted mean 0 and standard deviation 1, or 0 where all are the same.
pub fn whiten(x: &mut [f64], weight: &[f64], eps: f64) {
    let total: f64 = weight.iter().sum();
    if total <= 0.0 || x.iter().all(|v| *v == x[0]) {
        return x.fill(0.0);
    }
    let mean = x.iter().zip(weight).map(|(x, w)| w * x).sum::<f64>() / total;
    let variance = x.iter().zip(weight).map(|(x, w)| w * (x - mean) * (x - mean)).sum::<f64>() / total;
    let scale = 1.0 / (variance.sqrt() + eps);
    x.iter_mut().for_each(|x| *x = (*x - mean) * scale);
}
