//! SwiGLU.

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub mod oracle;

use super::want;
use crate::device::cpu::Cpu;
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use half::bf16;

/// `h = silu(gate) * up`; all `[N, F]`; on the CPU h may be bf16 (see [`Device::factor_dtype`]). Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
pub fn swiglu_fwd(dev: &Device, gate: View, up: View, mut h: ViewMut) -> Result<()> {
    want("swiglu_fwd", "up [N, F]", up.len(), gate.len())?;
    want("swiglu_fwd", "h [N, F]", h.len(), gate.len())?;
    let _span = dev.op("swiglu_fwd", || cost::swiglu_fwd(gate.len(), gate.dtype(), h.dtype()));
    match dev {
        Device::Cpu(cpu) => on_cpu(cpu, gate, up, &mut h),
        Device::Gpu(gpu) => gpu::swiglu_fwd(gpu, gate, up, h)?,
    }
    Ok(())
}

/// The CPU's, by the type of h.
pub(crate) fn on_cpu(cpu: &Cpu, gate: View, up: View, h: &mut ViewMut) {
    match h.dtype() {
        DType::Bf16 => cpu::swiglu_fwd(cpu, gate.host(), up.host(), h.host_mut::<bf16>()),
        _ => cpu::swiglu_fwd(cpu, gate.host(), up.host(), h.host_mut::<f32>()),
    }
}

/// `dgate = `, `dup = ` the gradients of [`swiglu_fwd`]; on the CPU both may be bf16.
pub fn swiglu_bwd(dev: &Device, dh: View, gate: View, up: View, mut dgate: ViewMut, mut dup: ViewMut) -> Result<()> {
    want("swiglu_bwd", "dh [N, F]", dh.len(), gate.len())?;
    want("swiglu_bwd", "up [N, F]", up.len(), gate.len())?;
    want("swiglu_bwd", "dgate [N, F]", dgate.len(), gate.len())?;
    want("swiglu_bwd", "dup [N, F]", dup.len(), gate.len())?;
    let _span = dev.op("swiglu_bwd", || cost::swiglu_bwd(gate.len(), gate.dtype(), dgate.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            let (dh, gate, up) = (dh.host(), gate.host(), up.host());
            match dgate.dtype() {
                DType::Bf16 => cpu::swiglu_bwd::<bf16>(cpu, dh, gate, up, dgate.host_mut(), dup.host_mut()),
                _ => cpu::swiglu_bwd::<f32>(cpu, dh, gate, up, dgate.host_mut(), dup.host_mut()),
            }
        }
        Device::Gpu(gpu) => gpu::swiglu_bwd(gpu, dh, gate, up, dgate, dup)?,
    }
    Ok(())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::DType;
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// N F elements: the sigmoid, and two products.
    pub fn swiglu_fwd(nf: usize, x: DType, h: DType) -> Cost {
        cost(5 * nf, nf * (2 * x.size() + h.size()), "NF", [nf, 0, 0])
    }

    /// N F elements: the sigmoid again, and both gradients.
    pub fn swiglu_bwd(nf: usize, x: DType, dx: DType) -> Cost {
        cost(11 * nf, nf * (3 * x.size() + 2 * dx.size()), "NF", [nf, 0, 0])
    }
}
