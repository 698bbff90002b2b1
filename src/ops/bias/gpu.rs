//! Launches of the bias kernels.

use super::BLOCK;
use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, holds};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::norm::gpu::{PART_COLUMNS, add_parts};

const THREADS: u32 = 256;

/// See [`crate::ops::bias::bias_fwd`].
pub fn bias_fwd(gpu: &Gpu, b: View, y: ViewMut) -> Result<()> {
    let (len, f) = (y.len(), b.len());
    let is_bf16 = by_dtype("bias_fwd", &[b.dtype(), y.dtype()])? == DType::Bf16;
    gpu.launch(
        &Launch {
            kernel: if is_bf16 { "bias_fwd_bf16" } else { "bias_fwd_f32" },
            op: "bias_fwd",
            grid: [len.div_ceil(THREADS as usize) as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={} F={f}", len / f.max(1)),
        },
        &mut [Arg::In(b), Arg::Out(y), Arg::I64(len as i64), Arg::I32(f as i32)],
    )
}

/// See [`crate::ops::bias::bias_bwd`].
pub fn bias_bwd(gpu: &Gpu, dy: View, db: ViewMut, mut parts: ViewMut) -> Result<()> {
    let (f, n) = (db.len(), dy.len() / db.len().max(1));
    holds("bias_bwd", DType::F32, &[("db", db.dtype()), ("parts", parts.dtype())])?;
    let shape = format_args!("N={n} F={f}");
    gpu.launch(
        &Launch {
            kernel: if dy.dtype() == DType::Bf16 { "bias_bwd_parts_bf16" } else { "bias_bwd_parts_f32" },
            op: "bias_bwd",
            grid: [n.div_ceil(BLOCK) as u32, f.div_ceil(PART_COLUMNS) as u32, 1],
            block: [PART_COLUMNS as u32, 1, 1],
            shared_bytes: 0,
            shape: &shape,
        },
        &mut [Arg::In(dy), Arg::Out(parts.reborrow()), Arg::I64(n as i64), Arg::I32(f as i32)],
    )?;
    add_parts(gpu, "bias_bwd", parts.view(), db, &shape)
}
