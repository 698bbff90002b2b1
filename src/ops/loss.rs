//! Policy losses over the tokens that carry gradient.

use super::want;
use crate::device::{Device, View, ViewMut, cpu};
use crate::error::Result;

/// Parameters of [`policy_loss`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyLoss {
    /// The ratio may fall to 1 - clip_low before its gradient stops (for negative advantages).
    pub clip_low: f32,
    /// The ratio may rise to 1 + clip_high before its gradient stops (for positive advantages).
    pub clip_high: f32,
    /// Weight of the KL penalty to the reference, estimator k3 (Schulman 2020); 0 leaves the reference unread.
    pub kl: f32,
    /// Weight of the entropy bonus.
    pub entropy: f32,
}

/// What [`policy_loss`] adds up, in the order of its `sums` output.
pub const POLICY_SUMS: [&str; 6] = ["loss", "pg_loss", "kl", "entropy", "clipped", "ratio_max_dev"];

/// PPO-clipped policy gradient. With `r = exp(logprob - old)`, `A = advantage`, `w = weight` (aggregation: 1 / tokens):
/// `loss = sum w (-min(r A, clip(r) A) + kl k3 - entropy H)`, k3 = `exp(ref - lp) - (ref - lp) - 1`.
/// All `[N]`; writes dlogprob, dentropy `[N]`, and the sums named by [`POLICY_SUMS`] `[6]` (the last one a maximum).
///
/// Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4.
pub fn policy_loss(
    dev: &Device,
    logprob: View,
    old: View,
    reference: View,
    advantage: View,
    weight: View,
    entropy: View,
    mut dlogprob: ViewMut,
    mut dentropy: ViewMut,
    mut sums: ViewMut,
    how: PolicyLoss,
) -> Result<()> {
    let n = logprob.len();
    for (rule, got) in [
        ("old [N]", old.len()),
        ("reference [N]", reference.len()),
        ("advantage [N]", advantage.len()),
        ("weight [N]", weight.len()),
        ("entropy [N]", entropy.len()),
        ("dlogprob [N]", dlogprob.len()),
        ("dentropy [N]", dentropy.len()),
    ] {
        want("policy_loss", rule, got, n)?;
    }
    want("policy_loss", "sums", sums.len(), POLICY_SUMS.len())?;
    match dev {
        Device::Cpu(_) => cpu::loss::policy_loss(
            logprob.host(),
            old.host(),
            reference.host(),
            advantage.host(),
            weight.host(),
            entropy.host(),
            dlogprob.host_mut(),
            dentropy.host_mut(),
            sums.host_mut(),
            how,
        ),
    }
    Ok(())
}
