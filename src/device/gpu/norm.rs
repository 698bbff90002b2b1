//! Launches of the norm kernels.

use super::{Arg, Gpu, Launch, by_dtype};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;

/// Threads of a block, and rows: half a warp a row.
const THREADS: u32 = 128;
const ROWS: usize = THREADS as usize / 16;

/// See [`crate::ops::norm::rmsnorm_fwd`].
pub fn rmsnorm_fwd(gpu: &Gpu, x: View, w: View, y: ViewMut, rstd: ViewMut, eps: f32) -> Result<()> {
    let (n, c) = (rstd.len(), w.len());
    gpu.launch(
        &Launch {
            kernel: if x.dtype() == DType::Bf16 { "rmsnorm_fwd_bf16" } else { "rmsnorm_fwd_f32" },
            op: "rmsnorm_fwd",
            grid: [n.div_ceil(ROWS) as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n} C={c}"),
        },
        &mut [
            Arg::In(x),
            Arg::In(w),
            Arg::Out(y),
            Arg::Out(rstd),
            Arg::I64(n as i64),
            Arg::I32(c as i32),
            Arg::F32(eps),
        ],
    )
}

/// Columns of dw that one block sums, and its threads.
const COLUMNS: usize = 16;
const DW_THREADS: u32 = 512;

/// See [`crate::ops::norm::rmsnorm_bwd`]; dw is f32.
pub fn rmsnorm_bwd(gpu: &Gpu, dy: View, x: View, w: View, rstd: View, dx: ViewMut, dw: ViewMut) -> Result<()> {
    let (n, c) = (rstd.len(), w.len());
    let is_bf16 = by_dtype("rmsnorm_bwd", &[dy.dtype(), x.dtype(), w.dtype(), dx.dtype()])? == DType::Bf16;
    let shape = format_args!("N={n} C={c}");
    gpu.launch(
        &Launch {
            kernel: if is_bf16 { "rmsnorm_bwd_bf16" } else { "rmsnorm_bwd_f32" },
            op: "rmsnorm_bwd",
            grid: [n.div_ceil(ROWS) as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            shape: &shape,
        },
        &mut [Arg::In(dy), Arg::In(x), Arg::In(w), Arg::In(rstd), Arg::Out(dx), Arg::I64(n as i64), Arg::I32(c as i32)],
    )?;
    gpu.launch(
        &Launch {
            kernel: if is_bf16 { "rmsnorm_bwd_dw_bf16" } else { "rmsnorm_bwd_dw_f32" },
            op: "rmsnorm_bwd",
            grid: [c.div_ceil(COLUMNS) as u32, 1, 1],
            block: [DW_THREADS, 1, 1],
            shared_bytes: 0,
            shape: &shape,
        },
        &mut [Arg::In(dy), Arg::In(x), Arg::In(rstd), Arg::Out(dw), Arg::I64(n as i64), Arg::I32(c as i32)],
    )
}
