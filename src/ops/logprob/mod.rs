//! The language-model head fused with the log-probability of the taken token: the `[N, V]` logits never exist.

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
mod gpu_head;
mod gpu_sm90;
pub mod ladder;
pub mod oracle;
mod targets;

use super::want;
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::gemm::Matrix;
use gpu_head::Head;

pub use targets::{Masks, Targets};

/// f32 elements of the workspace the two ops need for w `[V, C]` of `dtype`: a bounded block of rows, whatever N is.
pub fn linear_logprob_workspace(dev: &Device, vocab: usize, dim: usize, dtype: DType) -> usize {
    match dev {
        Device::Cpu(cpu) => cpu::workspace_len(cpu, vocab),
        Device::Gpu(gpu) => gpu::workspace(gpu, vocab, dim, dtype),
    }
}

/// With `z = inv_temperature * x w^T`: logprob `[N]` = `z[target] - lse(z)`, lse `[N]`, entropy `[N]` of softmax(z);
/// x `[N, C]` (bf16 too where [`Device::factor_dtype`] says so), w `[V, C]`, target `[N]` i32. Row rule in N, and the bits [`super::sample::sample`] returns.
/// A row with a mask is scored among the tokens that it allows, as [`super::sample::sample_mask`] makes sampling do it.
pub fn linear_logprob_fwd<'w, 't>(
    dev: &Device,
    x: View,
    w: impl Into<Matrix<'w>>,
    target: impl Into<Targets<'t>>,
    mut logprob: ViewMut,
    mut lse: ViewMut,
    mut entropy: ViewMut,
    mut workspace: ViewMut,
    dim: usize,
    inv_temperature: f32,
) -> Result<()> {
    let (target, Matrix { rows: w, panels }) = (target.into(), w.into());
    let n = target.ids.len();
    want("linear_logprob_fwd", "x [N, C]", x.len(), n * dim)?;
    want("linear_logprob_fwd", "w [V, C]", w.len() % dim, 0)?;
    want("linear_logprob_fwd", "logprob [N]", logprob.len(), n)?;
    want("linear_logprob_fwd", "lse [N]", lse.len(), n)?;
    want("linear_logprob_fwd", "entropy [N]", entropy.len(), n)?;
    want(
        "linear_logprob_fwd",
        "workspace",
        workspace.len(),
        linear_logprob_workspace(dev, w.len() / dim, dim, x.dtype()),
    )?;
    target.check("linear_logprob_fwd", w.len() / dim)?;
    let of_masks = target.mask_bytes();
    let _span = dev.op("linear_logprob_fwd", || {
        cost::with_masks(cost::linear_logprob_fwd(n, dim, w.len() / dim, x.dtype()), of_masks)
    });
    match dev {
        Device::Cpu(cpu) => cpu::linear_logprob_fwd(
            cpu,
            x.into(),
            cpu::Head::new(w, panels),
            target.into(),
            logprob.host_mut(),
            lse.host_mut(),
            entropy.host_mut(),
            workspace.host_mut(),
            dim,
            inv_temperature,
        ),
        Device::Gpu(gpu) => {
            let head = Head::new(x, w, target, dim, inv_temperature);
            gpu::linear_logprob_fwd(dev, gpu, head, [logprob, lse, entropy], workspace)?;
        }
    }
    Ok(())
}

/// `dx = `, `dw += ` the gradients of [`linear_logprob_fwd`] given dlogprob `[N]` and dentropy `[N]`. A frozen head has no
/// dw. The logits are computed again, block by block. What a row's mask forbids gets no gradient of it.
pub fn linear_logprob_bwd<'w, 'd, 't>(
    dev: &Device,
    dlogprob: View,
    dentropy: View,
    x: View,
    w: impl Into<Matrix<'w>>,
    target: impl Into<Targets<'t>>,
    lse: View,
    entropy: View,
    mut dx: ViewMut,
    dw: impl Into<Option<ViewMut<'d>>>,
    mut workspace: ViewMut,
    dim: usize,
    inv_temperature: f32,
) -> Result<()> {
    let (target, Matrix { rows: w, panels }, mut dw) = (target.into(), w.into(), dw.into());
    let n = target.ids.len();
    for (rule, got) in [
        ("dlogprob [N]", dlogprob.len()),
        ("dentropy [N]", dentropy.len()),
        ("lse [N]", lse.len()),
        ("entropy [N]", entropy.len()),
    ] {
        want("linear_logprob_bwd", rule, got, n)?;
    }
    want("linear_logprob_bwd", "x [N, C]", x.len(), n * dim)?;
    want("linear_logprob_bwd", "dx [N, C]", dx.len(), n * dim)?;
    want("linear_logprob_bwd", "dw [V, C]", dw.as_ref().map_or(w.len(), ViewMut::len), w.len())?;
    want(
        "linear_logprob_bwd",
        "workspace",
        workspace.len(),
        linear_logprob_workspace(dev, w.len() / dim, dim, x.dtype()),
    )?;
    target.check("linear_logprob_bwd", w.len() / dim)?;
    let (of_w, of_masks) = (dw.is_some(), target.mask_bytes());
    let _span = dev.op("linear_logprob_bwd", || {
        cost::with_masks(cost::linear_logprob_bwd(n, dim, w.len() / dim, x.dtype(), of_w), of_masks)
    });
    match dev {
        Device::Cpu(cpu) => cpu::linear_logprob_bwd(
            cpu,
            dlogprob.host(),
            dentropy.host(),
            x.into(),
            cpu::Head::new(w, panels),
            target.into(),
            lse.host(),
            entropy.host(),
            dx.host_mut(),
            dw.as_mut().map(ViewMut::host_mut),
            workspace.host_mut(),
            dim,
            inv_temperature,
        ),
        Device::Gpu(gpu) => {
            let head = Head::new(x, w, target, dim, inv_temperature);
            let given = [dlogprob, dentropy, lse, entropy];
            gpu::linear_logprob_bwd(dev, gpu, head, given, (dx, dw), workspace)?;
        }
    }
    Ok(())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::DType;
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// N rows against V tokens: the product; logits and their sums stay in the cache.
    pub fn linear_logprob_fwd(n: usize, c: usize, v: usize, x: DType) -> Cost {
        cost(2 * n * c * v, (n + v) * c * x.size() + 16 * n, "N C V", [n, c, v])
    }

    /// The same with masks, read once.
    pub fn with_masks(of: Cost, mask_bytes: usize) -> Cost {
        Cost { bytes: of.bytes + mask_bytes as f64, ..of }
    }

    /// The logits again, dx, and perhaps dw, which is added to.
    pub fn linear_logprob_bwd(n: usize, c: usize, v: usize, x: DType, of_w: bool) -> Cost {
        let of_w = of_w as usize;
        cost((4 + 2 * of_w) * n * c * v, (2 * n + v) * c * x.size() + 8 * v * c * of_w + 20 * n, "N C V", [n, c, v])
    }
}
