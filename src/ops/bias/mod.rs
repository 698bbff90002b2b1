//! The bias of a linear layer.

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub mod oracle;

use super::want;
use crate::device::{Device, View, ViewMut};
use crate::error::Result;

/// `y = b` in every row, where the sums of a product that is then added begin; b `[F]`, y `[N, F]`.
pub fn bias_fwd(dev: &Device, b: View, mut y: ViewMut) -> Result<()> {
    want("bias_fwd", "y [N, F]", y.len() % b.len().max(1), 0)?;
    let _span = dev.op("bias_fwd", || cost::bias_fwd(y.len() / b.len().max(1), b.len(), y.dtype()));
    match dev {
        Device::Cpu(cpu) => cpu::bias_fwd(cpu, b.host(), y.host_mut()),
        Device::Gpu(gpu) => gpu::bias_fwd(gpu, b, y)?,
    }
    Ok(())
}

/// f32 elements that [`bias_bwd`] needs for the sums of blocks of rows.
pub fn bias_parts_len(n: usize, dim: usize) -> usize {
    n.div_ceil(BLOCK) * dim
}

/// Rows that are summed from zero before they are added to db: keeps long sums exact.
const BLOCK: usize = 64;

/// `db += ` the sum of dy's rows; dy `[N, F]`, db `[F]`. `parts`, of [`bias_parts_len`], is scratch.
pub fn bias_bwd(dev: &Device, dy: View, mut db: ViewMut, mut parts: ViewMut) -> Result<()> {
    let (f, n) = (db.len(), dy.len() / db.len().max(1));
    want("bias_bwd", "dy [N, F]", dy.len(), n * f)?;
    want("bias_bwd", "parts", parts.len(), bias_parts_len(n, f))?;
    let _span = dev.op("bias_bwd", || cost::bias_bwd(n, f, dy.dtype()));
    match dev {
        Device::Cpu(cpu) => cpu::bias_bwd(cpu, dy.host(), db.host_mut(), parts.host_mut()),
        Device::Gpu(gpu) => gpu::bias_bwd(gpu, dy, db, parts)?,
    }
    Ok(())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::DType;
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// N rows of F written.
    pub fn bias_fwd(n: usize, f: usize, y: DType) -> Cost {
        cost(0, (n + 1) * f * y.size(), "N F", [n, f, 0])
    }

    /// N rows of F summed.
    pub fn bias_bwd(n: usize, f: usize, dy: DType) -> Cost {
        cost(n * f, n * f * dy.size() + 8 * f, "N F", [n, f, 0])
    }
}
