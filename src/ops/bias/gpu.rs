//! Launches of the bias kernels.

use super::BLOCK;
use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, holds, vector_width};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::norm::gpu::{PART_THREADS, add_parts};

/// Rows of a thread of bias_fwd.
const ROWS: usize = 16;

/// See [`crate::ops::bias::bias_fwd`].
pub fn bias_fwd(gpu: &Gpu, b: View, mut y: ViewMut) -> Result<()> {
    let (f, n) = (b.len(), y.len() / b.len().max(1));
    let dtype = by_dtype("bias_fwd", &[b.dtype(), y.dtype()])?;
    let width = vector_width(f, dtype, &[b.address(), y.address()]);
    let kernel = if dtype == DType::Bf16 { "bias_fwd_bf16" } else { "bias_fwd_f32" };
    gpu.launch(
        &Launch::elements(kernel, "bias_fwd", n.div_ceil(ROWS) * f, width, &format_args!("N={n} F={f}")),
        &mut [Arg::In(b), Arg::Out(y), Arg::I64(n as i64), Arg::I32(f as i32), Arg::I32((width > 1) as i32)],
    )
}

/// See [`crate::ops::bias::bias_bwd`].
pub fn bias_bwd(gpu: &Gpu, dy: View, db: ViewMut, mut parts: ViewMut) -> Result<()> {
    let (f, n) = (db.len(), dy.len() / db.len().max(1));
    holds("bias_bwd", DType::F32, &[("db", db.dtype()), ("parts", parts.dtype())])?;
    let shape = format_args!("N={n} F={f}");
    let width = vector_width(f, dy.dtype(), &[dy.address(), parts.address()]);
    gpu.launch(
        &Launch {
            kernel: if dy.dtype() == DType::Bf16 { "bias_bwd_parts_bf16" } else { "bias_bwd_parts_f32" },
            op: "bias_bwd",
            grid: [n.div_ceil(BLOCK) as u32, f.div_ceil(PART_THREADS * width) as u32, 1],
            block: [PART_THREADS as u32, 1, 1],
            shared_bytes: 0,
            shape: &shape,
        },
        &mut [
            Arg::In(dy),
            Arg::Out(parts.reborrow()),
            Arg::I64(n as i64),
            Arg::I32(f as i32),
            Arg::I32((width > 1) as i32),
        ],
    )?;
    add_parts(gpu, "bias_bwd", parts.view(), 1, db, &shape)
}
