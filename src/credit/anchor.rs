//! Absolute-value anchoring: a group whose rewards are all alike still learns whether alike is good or bad.
//!
//! `A_i += alpha (1 - std / (std + spread)) (R_i - anchor)`: the whole of it where the group's spread vanishes, nothing
//! where rewards differ widely. The anchor is what walking away is worth, 0.
//!
//! Source: the idea of VGPO, arXiv:2512.12387 (dual advantage with an absolute-value term).
//! Differs: its formulas are not public to us; this one is ours.

/// A standard deviation at which the anchor's weight is one half.
pub const SPREAD: f64 = 0.05;

/// Adds the anchored part to one group's advantages, `[G]`.
pub fn anchor(rewards: &[f64], alpha: f64, advantage: &mut [f64]) {
    let n = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / n;
    let std = (rewards.iter().map(|r| (r - mean) * (r - mean)).sum::<f64>() / n).sqrt();
    let weight = alpha * (1.0 - std / (std + SPREAD));
    for (a, r) in advantage.iter_mut().zip(rewards) {
        *a += weight * r;
    }
}
