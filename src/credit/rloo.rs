//! RLOO: a rollout's reward against the mean of the others of its group.
//!
//! `A_i = R_i - mean_{j != i} R_j = (R_i - mean R) G / (G - 1)`.
//!
//! Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free"; Ahmadian et al. 2024, arXiv:2402.14740.

/// Advantages of one group, `[G]` into `[G]`; a group of one has nothing to compare with and gets 0.
pub fn rloo(rewards: &[f64], advantage: &mut [f64]) {
    let n = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / n;
    let scale = if rewards.len() > 1 { n / (n - 1.0) } else { 0.0 };
    for (a, r) in advantage.iter_mut().zip(rewards) {
        *a = (r - mean) * scale;
    }
}
