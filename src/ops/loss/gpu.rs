//! Launches of the loss kernels.

use crate::device::gpu::{Arg, Gpu, Launch, holds};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::loss::PolicyLoss;

/// See [`crate::ops::loss::policy_loss`].
pub fn policy_loss(
    gpu: &Gpu,
    [logprob, old, reference, advantage, weight, entropy]: [View; 6],
    [dlogprob, dentropy, sums]: [ViewMut; 3],
    how: PolicyLoss,
) -> Result<()> {
    let n = logprob.len();
    for x in [logprob, old, reference, advantage, weight, entropy] {
        holds("policy_loss", DType::F32, &[("an input", x.dtype())])?;
    }
    for y in [&dlogprob, &dentropy, &sums] {
        holds("policy_loss", DType::F32, &[("an output", y.dtype())])?;
    }
    gpu.launch(
        &Launch {
            kernel: "policy_loss",
            op: "policy_loss",
            grid: [1, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n}"),
        },
        &mut [
            Arg::In(logprob),
            Arg::In(old),
            Arg::In(reference),
            Arg::In(advantage),
            Arg::In(weight),
            Arg::In(entropy),
            Arg::Out(dlogprob),
            Arg::Out(dentropy),
            Arg::Out(sums),
            Arg::I64(n as i64),
            Arg::F32(how.clip_low),
            Arg::F32(how.clip_high),
            Arg::F32(how.kl),
            Arg::F32(how.entropy),
            Arg::F32(how.dual_clip),
            Arg::I32(how.objective as i32),
            Arg::I32(how.kl_estimator as i32),
        ],
    )
}
