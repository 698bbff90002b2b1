//! Policy losses over the tokens that carry gradient.

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub mod oracle;

use super::want;
use crate::device::{Device, View, ViewMut};
use crate::error::Result;

/// What the ratio r to the sampling policy does to a token's gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Objective {
    /// `-min(r A, clip(r) A)`: outside the clip the gradient stops (Schulman et al. 2017, arXiv:1707.06347, eq. 7).
    #[default]
    Clip,
    /// `-sg(clip(r)) A logprob`: outside the clip the weight stops, the gradient goes on (CISPO, MiniMax-M1 2025,
    /// arXiv:2506.13585).
    Cispo,
}

/// Estimators of the KL divergence to the reference from sampled tokens, with `x = reference - logprob` (Schulman 2020,
/// "Approximating KL divergence").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kl {
    /// `-x`: unbiased, wide. Its gradient in the loss has mean 0; it is meant for the reward.
    K1,
    /// `x^2 / 2`: biased, narrow; on policy its gradient is that of the KL itself.
    K2,
    /// `exp(x) - x - 1`: unbiased, never negative (GRPO's, arXiv:2402.03300, eq. 4).
    #[default]
    K3,
}

impl Kl {
    /// The estimate at `x = reference - logprob`.
    pub fn of(self, x: f64) -> f64 {
        match self {
            Kl::K1 => -x,
            Kl::K2 => 0.5 * x * x,
            Kl::K3 => x.exp() - x - 1.0,
        }
    }
}

/// Parameters of [`policy_loss`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyLoss {
    /// The ratio may fall to 1 - clip_low before its gradient stops (for negative advantages).
    pub clip_low: f32,
    /// The ratio may rise to 1 + clip_high before its gradient stops (for positive advantages).
    pub clip_high: f32,
    /// Weight of the KL penalty to the reference; 0 leaves the reference unread.
    pub kl: f32,
    /// Weight of the entropy bonus.
    pub entropy: f32,
    /// What is clipped.
    pub objective: Objective,
    /// For negative advantages the loss of a token stops at `-dual_clip A`, and its gradient with it; above 1, 0 is off
    /// (Ye et al. 2020, arXiv:1912.09729). Read by [`Objective::Clip`].
    pub dual_clip: f32,
    /// How the KL penalty is estimated.
    pub kl_estimator: Kl,
}

impl Default for PolicyLoss {
    /// GRPO without penalties: clip 0.2 on both sides.
    fn default() -> PolicyLoss {
        PolicyLoss {
            clip_low: 0.2,
            clip_high: 0.2,
            kl: 0.0,
            entropy: 0.0,
            objective: Objective::Clip,
            dual_clip: 0.0,
            kl_estimator: Kl::K3,
        }
    }
}

/// What [`policy_loss`] adds up, in the order of its `sums` output: the two losses by weight; KL, entropy and clipped tokens
/// each token once, so that their means do not know how a loss is aggregated; the last one is a maximum.
pub const POLICY_SUMS: [&str; 6] = ["loss", "pg_loss", "kl", "entropy", "clipped", "ratio_max_dev"];

/// PPO-clipped policy gradient. With `r = exp(logprob - old)`, `A = advantage`, `w = weight` (aggregation: 1 / tokens):
/// `loss = sum w (-min(r A, clip(r) A) + kl k3 - entropy H)`, k3 = `exp(ref - lp) - (ref - lp) - 1`; other objectives and
/// estimators as [`PolicyLoss`] says. All `[N]`; writes dlogprob, dentropy `[N]`, and the sums named by [`POLICY_SUMS`] `[6]`.
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
    let _span = dev.op("policy_loss", || cost::policy_loss(n));
    match dev {
        Device::Cpu(_) => cpu::policy_loss(
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
        Device::Gpu(gpu) => {
            let inputs = [logprob, old, reference, advantage, weight, entropy];
            gpu::policy_loss(gpu, inputs, [dlogprob, dentropy, sums], how)?;
        }
    }
    Ok(())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// N tokens: six inputs, two outputs.
    pub fn policy_loss(n: usize) -> Cost {
        cost(60 * n, 32 * n, "N", [n, 0, 0])
    }
}
