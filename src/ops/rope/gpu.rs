//! Launches of the rotary embedding kernel.

use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, vector_width};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;

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
    let (n, pairs) = (positions.len(), x.len() / 2);
    let dtype = by_dtype("rope", &[x.dtype()])?;
    let width = vector_width(head_dim / 2, dtype, &[x.address(), table.address()]);
    let kernel = if dtype == DType::Bf16 { "rope_bf16" } else { "rope_f32" };
    let op = if sign < 0.0 { "rope_bwd" } else { "rope_fwd" };
    gpu.launch(
        &Launch::elements(kernel, op, pairs, width, &format_args!("N={n} H={n_heads} D={head_dim}")),
        &mut [
            Arg::Out(x),
            Arg::In(positions),
            Arg::In(table),
            Arg::I64(pairs as i64),
            Arg::I32((table.len() / head_dim) as i32),
            Arg::I32(n_heads as i32),
            Arg::I32(head_dim as i32),
            Arg::F32(sign),
            Arg::I32((width > 1) as i32),
        ],
    )
}
