//! Rows by index: token embedding, and gathering the rows that carry a loss.

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub mod oracle;

use super::{below, cost, want};
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use half::bf16;

/// `x[n] = table[ids[n]]`; ids `[N]` i32 in `0..V`, table `[V, C]`, x `[N, C]`. Also gathers rows of activations.
/// On the CPU the table may be bf16, of weights that are held so; x is f32.
pub fn embed_fwd(dev: &Device, ids: View, table: View, mut x: ViewMut, dim: usize) -> Result<()> {
    want("embed_fwd", "x [N, C]", x.len(), ids.len() * dim)?;
    want("embed_fwd", "table [V, C]", table.len() % dim, 0)?;
    let _span = dev.op("embed_fwd", || cost::embed_fwd(ids.len(), dim, x.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            below("embed_fwd", "ids below V", ids.host(), table.len() / dim)?;
            match table.dtype() {
                DType::Bf16 => cpu::embed_fwd::<bf16>(cpu, ids.host(), table.host(), x.host_mut(), dim),
                _ => cpu::embed_fwd::<f32>(cpu, ids.host(), table.host(), x.host_mut(), dim),
            }
        }
        Device::Gpu(gpu) => gpu::embed_fwd(gpu, ids, table, x, dim)?,
    }
    Ok(())
}

/// i32 elements that [`embed_bwd`] needs to put N rows in order.
pub fn embed_order_len(dev: &Device, n: usize) -> usize {
    match dev {
        Device::Cpu(_) => 0,
        Device::Gpu(_) => gpu::embed_order_len(n),
    }
}

/// `dtable[ids[n]] += dx[n]`, rows added in the order of n; shapes as in [`embed_fwd`]. Also scatters rows back.
/// `order`, of [`embed_order_len`], is scratch.
pub fn embed_bwd(dev: &Device, ids: View, dx: View, mut dtable: ViewMut, order: ViewMut, dim: usize) -> Result<()> {
    want("embed_bwd", "dx [N, C]", dx.len(), ids.len() * dim)?;
    want("embed_bwd", "dtable [V, C]", dtable.len() % dim, 0)?;
    want("embed_bwd", "order", order.len(), embed_order_len(dev, ids.len()))?;
    let _span = dev.op("embed_bwd", || cost::embed_bwd(ids.len(), dim, dx.dtype(), dtable.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            below("embed_bwd", "ids below V", ids.host(), dtable.len() / dim)?;
            cpu::embed_bwd(cpu, ids.host(), dx.host(), dtable.host_mut(), dim)
        }
        Device::Gpu(gpu) => gpu::embed_bwd(gpu, ids, dx, dtable, order, dim)?,
    }
    Ok(())
}

/// `x = value` everywhere; f32.
pub fn fill(dev: &Device, mut x: ViewMut, value: f32) -> Result<()> {
    let _span = dev.op("fill", || cost::fill(x.len(), x.dtype()));
    match dev {
        Device::Cpu(_) => x.host_mut::<f32>().fill(value),
        Device::Gpu(gpu) => gpu::fill(gpu, x, value)?,
    }
    Ok(())
}

/// `y = x`; both of one length, f32.
pub fn copy(dev: &Device, x: View, mut y: ViewMut) -> Result<()> {
    want("copy", "y [N]", y.len(), x.len())?;
    let _span = dev.op("copy", || cost::copy(x.len(), x.dtype(), y.dtype()));
    match dev {
        Device::Cpu(_) => y.host_mut::<f32>().copy_from_slice(x.host()),
        Device::Gpu(gpu) => gpu::copy(gpu, x, y)?,
    }
    Ok(())
}

/// `y = factor x`; both of one length, f32. On a GPU also bf16, or f32 into bf16.
pub fn scale(dev: &Device, x: View, mut y: ViewMut, factor: f32) -> Result<()> {
    want("scale", "y [N]", y.len(), x.len())?;
    let _span = dev.op("scale", || cost::scale(x.len(), x.dtype(), y.dtype()));
    match dev {
        Device::Cpu(_) => y.host_mut::<f32>().iter_mut().zip(x.host::<f32>()).for_each(|(y, x)| *y = factor * x),
        Device::Gpu(gpu) => gpu::scale(gpu, x, y, factor)?,
    }
    Ok(())
}

/// `y += x`; both of one length, f32.
pub fn add(dev: &Device, x: View, mut y: ViewMut) -> Result<()> {
    want("add", "y [N]", y.len(), x.len())?;
    let _span = dev.op("add", || cost::add(x.len()));
    match dev {
        Device::Cpu(_) => y.host_mut::<f32>().iter_mut().zip(x.host::<f32>()).for_each(|(y, x)| *y += x),
        Device::Gpu(gpu) => gpu::add(gpu, x, y)?,
    }
    Ok(())
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::DType;
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// Moves N rows of C.
    pub fn embed_fwd(n: usize, c: usize, x: DType) -> Cost {
        cost(0, 2 * n * c * x.size() + 4 * n, "N C", [n, c, 0])
    }

    /// Adds N rows of C to rows of a table.
    pub fn embed_bwd(n: usize, c: usize, dx: DType, table: DType) -> Cost {
        cost(n * c, n * c * (dx.size() + 2 * table.size()) + 4 * n, "N C", [n, c, 0])
    }

    /// Writes N elements.
    pub fn fill(n: usize, x: DType) -> Cost {
        cost(0, n * x.size(), "N", [n, 0, 0])
    }

    /// Multiplies N elements.
    pub fn scale(n: usize, x: DType, y: DType) -> Cost {
        cost(n, n * (x.size() + y.size()), "N", [n, 0, 0])
    }

    /// Adds N elements of f32.
    pub fn add(n: usize) -> Cost {
        cost(n, 12 * n, "N", [n, 0, 0])
    }

    /// Reads and writes N elements.
    pub fn copy(n: usize, x: DType, y: DType) -> Cost {
        cost(0, n * (x.size() + y.size()), "N", [n, 0, 0])
    }
}
