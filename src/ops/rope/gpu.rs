//! Launches of the rotary embedding kernel.

use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, vector_width};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;

/// Elements of a block's rows, about, how many of these at most, and its threads.
const TILE: usize = 4096;
const MOST_ROWS: usize = 32;
const THREADS: u32 = 256;

/// Rotates by `sign` times the angle; see [`crate::ops::rope`].
pub fn rope(
    gpu: &Gpu,
    mut x: ViewMut,
    positions: View,
    table: View,
    n_heads: usize,
    head_dim: usize,
    sign: f32,
) -> Result<()> {
    let n = positions.len();
    let rows = (TILE / (n_heads * head_dim).max(1)).clamp(1, MOST_ROWS);
    let dtype = by_dtype("rope", &[x.dtype()])?;
    let width = vector_width(head_dim / 2, dtype, &[x.address(), table.address()]);
    let kernel = if dtype == DType::Bf16 { "rope_bf16" } else { "rope_f32" };
    let op = if sign < 0.0 { "rope_bwd" } else { "rope_fwd" };
    gpu.launch(
        &Launch {
            kernel,
            op,
            grid: [n.div_ceil(rows) as u32, 1, 1],
            block: [THREADS, 1, 1],
            // The rows' angles.
            shared_bytes: (rows * head_dim * size_of::<f32>()) as u32,
            shape: &format_args!("N={n} H={n_heads} D={head_dim}"),
        },
        &mut [
            Arg::Out(x),
            Arg::In(positions),
            Arg::In(table),
            Arg::I64(n as i64),
            Arg::I32((table.len() / head_dim) as i32),
            Arg::I32(n_heads as i32),
            Arg::I32(head_dim as i32),
            Arg::F32(sign),
            Arg::I32(rows as i32),
            Arg::I32((width > 1) as i32),
        ],
    )
}
