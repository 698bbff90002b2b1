//! RMSNorm, over rows or, with rows = tokens x heads, per head (the q/k norm of Qwen3).

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub mod oracle;

use super::want;
use crate::device::cpu::Cpu;
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use half::bf16;

/// `y = x * rstd * w`, `rstd = 1 / sqrt(mean_c(x^2) + eps)`; x, y `[N, C]`, w `[C]`, rstd `[N]` (saved for backward).
///
/// On the CPU y may be bf16 (see [`Device::factor_dtype`]). Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
pub fn rmsnorm_fwd(dev: &Device, x: View, w: View, mut y: ViewMut, mut rstd: ViewMut, eps: f32) -> Result<()> {
    let (n, c) = (rstd.len(), w.len());
    want("rmsnorm_fwd", "x [N, C]", x.len(), n * c)?;
    want("rmsnorm_fwd", "y [N, C]", y.len(), n * c)?;
    let _span = dev.op("rmsnorm_fwd", || cost::rmsnorm_fwd(n, c, x.dtype(), y.dtype()));
    match dev {
        Device::Cpu(cpu) => on_cpu(cpu, x, w, &mut y, &mut rstd, eps),
        Device::Gpu(gpu) => gpu::rmsnorm_fwd(gpu, x, w, y, rstd, eps)?,
    }
    Ok(())
}

/// The CPU's, by the type of y.
pub(crate) fn on_cpu(cpu: &Cpu, x: View, w: View, y: &mut ViewMut, rstd: &mut ViewMut, eps: f32) {
    let (x, w, rstd) = (x.host(), w.host(), rstd.host_mut());
    match y.dtype() {
        DType::Bf16 => cpu::rmsnorm_fwd(cpu, x, w, y.host_mut::<bf16>(), rstd, eps),
        _ => cpu::rmsnorm_fwd(cpu, x, w, y.host_mut::<f32>(), rstd, eps),
    }
}

/// f32 elements that [`rmsnorm_bwd`] needs for the sums of blocks of rows.
pub fn rmsnorm_parts_len(dev: &Device, n: usize, dim: usize) -> usize {
    match dev {
        Device::Cpu(_) => cpu::parts_len(n, dim),
        Device::Gpu(_) => gpu::parts_len(n, dim),
    }
}

/// `dx += ` and `dw += ` the gradients of [`rmsnorm_fwd`]; dy, x, dx `[N, C]`, w, dw `[C]`, rstd `[N]`. A frozen weight has
/// no dw. `parts`, of [`rmsnorm_parts_len`], is scratch.
pub fn rmsnorm_bwd<'d>(
    dev: &Device,
    dy: View,
    x: View,
    w: View,
    rstd: View,
    mut dx: ViewMut,
    dw: impl Into<Option<ViewMut<'d>>>,
    mut parts: ViewMut,
) -> Result<()> {
    let (n, c, mut dw) = (rstd.len(), w.len(), dw.into());
    want("rmsnorm_bwd", "x [N, C]", x.len(), n * c)?;
    want("rmsnorm_bwd", "dy [N, C]", dy.len(), n * c)?;
    want("rmsnorm_bwd", "dx [N, C]", dx.len(), n * c)?;
    want("rmsnorm_bwd", "dw [C]", dw.as_ref().map_or(c, ViewMut::len), c)?;
    want("rmsnorm_bwd", "parts", parts.len(), rmsnorm_parts_len(dev, n, c))?;
    let _span = dev.op("rmsnorm_bwd", || cost::rmsnorm_bwd(n, c, x.dtype(), dw.is_some()));
    match dev {
        Device::Cpu(cpu) => {
            let dw = dw.as_mut().map(ViewMut::host_mut);
            cpu::rmsnorm_bwd(cpu, [dy, x, w, rstd].map(|x| x.host()), dx.host_mut(), dw, parts.host_mut())
        }
        Device::Gpu(gpu) => gpu::rmsnorm_bwd(gpu, [dy, x, w, rstd], dx, dw, parts)?,
    }
    Ok(())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::DType;
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// N rows of C: square and add, scale, weigh.
    pub fn rmsnorm_fwd(n: usize, c: usize, x: DType, y: DType) -> Cost {
        cost(4 * n * c, n * c * (x.size() + y.size()) + c * x.size() + 4 * n, "N C", [n, c, 0])
    }

    /// dx and perhaps dw: reads dy, x, dx, w, rstd and dw, writes dx and dw.
    pub fn rmsnorm_bwd(n: usize, c: usize, x: DType, of_w: bool) -> Cost {
        let of_w = of_w as usize;
        cost((7 + 3 * of_w) * n * c, (4 * n * c + c) * x.size() + 4 * n + 8 * c * of_w, "N C", [n, c, 0])
    }
}
