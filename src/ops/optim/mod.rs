//! The optimizer's ops.

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub mod oracle;

pub use cpu::part_len;

use super::want;
use crate::device::gpu::by_dtype;
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use half::bf16;

/// Parts of a sum over a whole gradient, and elements (u64) of the workspace of [`grad_norm`].
pub const GRAD_NORM_PARTS: usize = 1024;

/// Sum of squares of g `[N]`, in a fixed order; written to out `[1]`. NaN and infinity come through.
pub fn grad_norm(dev: &Device, g: View, mut out: ViewMut, workspace: ViewMut) -> Result<()> {
    want("grad_norm", "out [1]", out.len(), 1)?;
    want("grad_norm", "workspace", workspace.len(), GRAD_NORM_PARTS)?;
    let _span = dev.op("grad_norm", || cost::grad_norm(g.len()));
    match dev {
        Device::Cpu(cpu) => out.host_mut::<f32>()[0] = cpu::sum_squares(cpu, g.host()),
        Device::Gpu(gpu) => gpu::grad_norm(gpu, g, out, workspace)?,
    }
    Ok(())
}

/// Sums of squares of the parts of g `[N]`, of `part` elements each, the last one perhaps of fewer: as many as there are go to
/// `sums` `[1024]`, f64 by their bits. Parts of [`part_len`] of a gradient, added in their order, are its [`grad_norm`].
///
/// # Errors
/// [`crate::Error::Shape`] for more parts than there are sums.
pub fn grad_norm_parts(dev: &Device, g: View, mut sums: ViewMut, part: usize) -> Result<()> {
    want("grad_norm", "sums", sums.len(), GRAD_NORM_PARTS)?;
    want("grad_norm", "parts beyond the sums", g.len().div_ceil(part).saturating_sub(GRAD_NORM_PARTS), 0)?;
    let _span = dev.op("grad_norm", || cost::grad_norm(g.len()));
    match dev {
        Device::Cpu(cpu) => cpu::parts_squares(cpu, g.host(), part, sums.host_mut()),
        Device::Gpu(gpu) => gpu::grad_norm_parts(gpu, g, sums, part)?,
    }
    Ok(())
}

/// Parameters of [`adamw_step`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Factor of the gradient: clipping.
    pub grad_scale: f32,
    /// Number of this step, from 1: bias correction; and the noise of moments in bf16.
    pub step: u64,
    /// Number of the first of these weights among all that have noise of their own.
    pub element: u64,
}

impl AdamW {
    /// `1 / (1 - beta^step)` of both moments.
    pub(crate) fn corrections(&self) -> (f32, f32) {
        let step = self.step.min(i32::MAX as u64) as i32;
        // In f64: for small steps 1 - beta^step is a difference of near equals.
        let correction = |beta: f32| (1.0 / (1.0 - (beta as f64).powi(step))) as f32;
        (correction(self.beta1), correction(self.beta2))
    }
}

/// One AdamW update of w `[N]` with its gradient g and moments m, v, all `[N]`; w_bf16 `[N]`, when there is one, becomes
/// a rounded copy of w. All f32; m and v may both be bf16.
///
/// Moments in bf16 are rounded where they are stored, up or down by chance, so that their mean is kept (Gupta et al. 2015,
/// arXiv:1502.02551). Rounded to the nearest, a second moment whose decay `1 - beta2` is less than half a step of bf16, 1/512,
/// would never fall. The noise is a function of `(step, element)`.
///
/// Source: Loshchilov and Hutter 2017, arXiv:1711.05101, alg. 2.
pub fn adamw_step(
    dev: &Device,
    g: View,
    mut w: ViewMut,
    mut m: ViewMut,
    mut v: ViewMut,
    mut w_bf16: Option<ViewMut>,
    how: AdamW,
) -> Result<()> {
    want("adamw_step", "w [N]", w.len(), g.len())?;
    want("adamw_step", "m [N]", m.len(), g.len())?;
    want("adamw_step", "v [N]", v.len(), g.len())?;
    want("adamw_step", "w_bf16 [N]", w_bf16.as_ref().map_or(g.len(), ViewMut::len), g.len())?;
    let _span = dev.op("adamw_step", || cost::adamw_step(g.len(), m.dtype(), w_bf16.is_some()));
    let narrow = by_dtype("adamw_step", &[m.dtype(), v.dtype()])? == DType::Bf16;
    match dev {
        Device::Cpu(cpu) => {
            if narrow {
                cpu::adamw_step::<bf16>(cpu, g.host(), w.host_mut(), m.host_mut(), v.host_mut(), how);
            } else {
                cpu::adamw_step::<f32>(cpu, g.host(), w.host_mut(), m.host_mut(), v.host_mut(), how);
            }
            if let Some(w_bf16) = &mut w_bf16 {
                cpu::round(cpu, w.host_mut(), w_bf16.host_mut());
            }
        }
        Device::Gpu(gpu) => gpu::adamw_step(gpu, g, w, m, v, w_bf16, how)?,
    }
    Ok(())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::DType;
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// Squares of N elements.
    pub fn grad_norm(n: usize) -> Cost {
        cost(2 * n, 4 * n, "N", [n, 0, 0])
    }

    /// N weights, their gradients and moments; a copy in bf16 when there is one.
    pub fn adamw_step(n: usize, moments: DType, has_copy: bool) -> Cost {
        cost(17 * n, (12 + 4 * moments.size() + 2 * has_copy as usize) * n, "N", [n, 0, 0])
    }
}
