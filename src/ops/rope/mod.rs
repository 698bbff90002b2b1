//! Rotary position embedding, the half-split layout of Hugging Face Qwen models.

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod gpu;
pub mod oracle;

use super::{below, cost, want};
use crate::device::{Device, View, ViewMut};
use crate::error::Result;

/// Rotates x `[N, H, D]` in place by the angles of `positions [N]` (i32): with `d < D/2`,
/// `x[d], x[d + D/2] = x[d] cos - x[d + D/2] sin, x[d + D/2] cos + x[d] sin`.
///
/// `table [T, D]` holds for each position `cos [D/2]` then `sin [D/2]`; see [`table`].
/// Source: Su et al. 2021, arXiv:2104.09864, eq. 34.
pub fn rope_fwd(
    dev: &Device,
    mut x: ViewMut,
    positions: View,
    table: View,
    n_heads: usize,
    head_dim: usize,
) -> Result<()> {
    want("rope_fwd", "D is even", head_dim % 2, 0)?;
    want("rope_fwd", "x [N, H, D]", x.len(), positions.len() * n_heads * head_dim)?;
    let _span = dev.op("rope_fwd", || cost::rope(positions.len(), n_heads, head_dim, x.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            below("rope_fwd", "positions below T", positions.host(), table.len() / head_dim)?;
            cpu::rope(cpu, x.host_mut(), positions.host(), table.host(), n_heads, head_dim, 1.0)
        }
        Device::Gpu(gpu) => gpu::rope(gpu, x, positions, table, n_heads, head_dim, 1.0)?,
    }
    Ok(())
}

/// Rotates the gradient back, in place: the transpose of [`rope_fwd`].
pub fn rope_bwd(
    dev: &Device,
    mut dx: ViewMut,
    positions: View,
    table: View,
    n_heads: usize,
    head_dim: usize,
) -> Result<()> {
    want("rope_bwd", "D is even", head_dim % 2, 0)?;
    want("rope_bwd", "dx [N, H, D]", dx.len(), positions.len() * n_heads * head_dim)?;
    let _span = dev.op("rope_bwd", || cost::rope(positions.len(), n_heads, head_dim, dx.dtype()));
    match dev {
        Device::Cpu(cpu) => {
            below("rope_bwd", "positions below T", positions.host(), table.len() / head_dim)?;
            cpu::rope(cpu, dx.host_mut(), positions.host(), table.host(), n_heads, head_dim, -1.0)
        }
        Device::Gpu(gpu) => gpu::rope(gpu, dx, positions, table, n_heads, head_dim, -1.0)?,
    }
    Ok(())
}

/// Radians a position, `[D / 2]`: theta^(-2d/D).
pub fn frequencies(head_dim: usize, theta: f64) -> Vec<f32> {
    (0..head_dim / 2).map(|d| 1.0 / theta.powf((2 * d) as f64 / head_dim as f64) as f32).collect()
}

/// The angles' cosines and sines, `[T, D]`: angle = position * frequency, of frequencies `[D / 2]`.
///
/// Frequency and angle are rounded to f32, as every implementation that the checkpoints of this family were trained
/// with does: an exact angle would be another model by some 1e-5 radians at position 300, and its logits up to 4e-4
/// from the reference's. Cosine and sine of that angle are exact, then rounded.
pub fn table(max_positions: usize, frequencies: &[f32]) -> Vec<f32> {
    let (half, head_dim) = (frequencies.len(), 2 * frequencies.len());
    let mut table = vec![0f32; max_positions * head_dim];
    for (d, frequency) in frequencies.iter().enumerate() {
        for pos in 0..max_positions {
            let angle = (pos as f32 * frequency) as f64;
            table[pos * head_dim + d] = angle.cos() as f32;
            table[pos * head_dim + half + d] = angle.sin() as f32;
        }
    }
    table
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use crate::device::DType;
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// N rows of H heads of D: four products and two sums a pair; a row of the table a position.
    pub fn rope(n: usize, h: usize, d: usize, x: DType) -> Cost {
        cost(3 * n * h * d, 2 * n * h * d * x.size() + 4 * n * d + 4 * n, "N H D", [n, h, d])
    }
}
