//! SwiGLU.

use super::{cost, want};
use crate::device::{Device, View, ViewMut, cpu, gpu};
use crate::error::Result;

/// `h = silu(gate) * up`; all `[N, F]`. Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
pub fn swiglu_fwd(dev: &Device, gate: View, up: View, mut h: ViewMut) -> Result<()> {
    want("swiglu_fwd", "up [N, F]", up.len(), gate.len())?;
    want("swiglu_fwd", "h [N, F]", h.len(), gate.len())?;
    let _span = dev.op("swiglu_fwd", || cost::swiglu_fwd(gate.len(), gate.dtype()));
    match dev {
        Device::Cpu(cpu) => cpu::swiglu::swiglu_fwd(cpu, gate.host(), up.host(), h.host_mut()),
        Device::Gpu(gpu) => gpu::swiglu::swiglu_fwd(gpu, gate, up, h)?,
    }
    Ok(())
}

/// `dgate = `, `dup = ` the gradients of [`swiglu_fwd`].
pub fn swiglu_bwd(dev: &Device, dh: View, gate: View, up: View, mut dgate: ViewMut, mut dup: ViewMut) -> Result<()> {
    want("swiglu_bwd", "dh [N, F]", dh.len(), gate.len())?;
    want("swiglu_bwd", "up [N, F]", up.len(), gate.len())?;
    want("swiglu_bwd", "dgate [N, F]", dgate.len(), gate.len())?;
    want("swiglu_bwd", "dup [N, F]", dup.len(), gate.len())?;
    let _span = dev.op("swiglu_bwd", || cost::swiglu_bwd(gate.len(), gate.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            cpu::swiglu::swiglu_bwd(cpu, dh.host(), gate.host(), up.host(), dgate.host_mut(), dup.host_mut())
        }
        Device::Gpu(gpu) => gpu::swiglu::swiglu_bwd(gpu, dh, gate, up, dgate, dup)?,
    }
    Ok(())
}
