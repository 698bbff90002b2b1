//! OPO: the baseline of least variance when a rollout's gradient grows with its length.
//!
//! `A_i = R_i - sum_j l_j R_j / sum_j l_j`, `l` the trained tokens of a rollout.
//!
//! Source: Hao et al. 2025, arXiv:2505.23585.

/// Advantages of one group, `[G]` rewards and lengths into `[G]`; with no token at all the plain mean is the baseline.
pub fn opo(rewards: &[f64], lengths: &[usize], advantage: &mut [f64]) {
    let tokens: usize = lengths.iter().sum();
    let weighted: f64 = rewards.iter().zip(lengths).map(|(r, l)| r * *l as f64).sum();
    let plain = rewards.iter().sum::<f64>() / rewards.len() as f64;
    let baseline = if tokens > 0 { weighted / tokens as f64 } else { plain };
    for (a, r) in advantage.iter_mut().zip(rewards) {
        *a = r - baseline;
    }
}
