//! Launches of the rotary embedding kernel.

use crate::device::gpu::{Arg, Gpu, Launch, by_dtype};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;

const THREADS: u32 = 256;

/// Rotates by `sign` times the angle; see [`crate::ops::rope`].
pub fn rope(
    gpu: &Gpu,
    x: ViewMut,
    positions: View,
    table: View,
    n_heads: usize,
    head_dim: usize,
    sign: f32,
) -> Result<()> {
    let (n, pairs) = (positions.len(), x.len() / 2);
    gpu.launch(
        &Launch {
            kernel: if by_dtype("rope", &[x.dtype()])? == DType::Bf16 { "rope_bf16" } else { "rope_f32" },
            op: if sign < 0.0 { "rope_bwd" } else { "rope_fwd" },
            grid: [pairs.div_ceil(THREADS as usize) as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n} H={n_heads} D={head_dim}"),
        },
        &mut [
            Arg::Out(x),
            Arg::In(positions),
            Arg::In(table),
            Arg::I64(pairs as i64),
            Arg::I32((table.len() / head_dim) as i32),
            Arg::I32(n_heads as i32),
            Arg::I32(head_dim as i32),
            Arg::F32(sign),
        ],
    )
}
