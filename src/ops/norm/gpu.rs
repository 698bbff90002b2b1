//! Launches of the norm kernels.

use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, holds};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use std::fmt::Display;

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

/// Rows that are summed from zero before they are added to dw.
const BLOCK: usize = 64;
/// Columns of a thread block that sums rows, and of one that adds the sums to dw; and its threads.
pub(crate) const PART_COLUMNS: usize = 128;
const DW_COLUMNS: usize = 32;
const DW_THREADS: u32 = 1024;

/// See [`crate::ops::norm::rmsnorm_parts_len`].
pub fn parts_len(n: usize, dim: usize) -> usize {
    n.div_ceil(BLOCK) * dim
}

/// See [`crate::ops::norm::rmsnorm_bwd`]; dw is f32.
pub fn rmsnorm_bwd(
    gpu: &Gpu,
    [dy, x, w, rstd]: [View; 4],
    dx: ViewMut,
    dw: Option<ViewMut>,
    mut parts: ViewMut,
) -> Result<()> {
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
    let Some(dw) = dw else { return Ok(()) };
    holds("rmsnorm_bwd", DType::F32, &[("dw", dw.dtype()), ("parts", parts.dtype())])?;
    let n_parts = n.div_ceil(BLOCK);
    gpu.launch(
        &Launch {
            kernel: if is_bf16 { "rmsnorm_bwd_parts_bf16" } else { "rmsnorm_bwd_parts_f32" },
            op: "rmsnorm_bwd",
            grid: [n_parts as u32, c.div_ceil(PART_COLUMNS) as u32, 1],
            block: [PART_COLUMNS as u32, 1, 1],
            shared_bytes: 0,
            shape: &shape,
        },
        &mut [
            Arg::In(dy),
            Arg::In(x),
            Arg::In(rstd),
            Arg::Out(parts.reborrow()),
            Arg::I64(n as i64),
            Arg::I32(c as i32),
        ],
    )?;
    add_parts(gpu, "rmsnorm_bwd", parts.view(), dw, &shape)
}

/// `dw += ` the sums of blocks of rows, parts `[P, C]`, in order; both f32.
pub(crate) fn add_parts(gpu: &Gpu, op: &'static str, parts: View, dw: ViewMut, shape: &dyn Display) -> Result<()> {
    let c = dw.len();
    gpu.launch(
        &Launch {
            kernel: "add_parts",
            op,
            grid: [c.div_ceil(DW_COLUMNS) as u32, 1, 1],
            block: [DW_THREADS, 1, 1],
            shared_bytes: 0,
            shape,
        },
        &mut [Arg::In(parts), Arg::Out(dw), Arg::I64((parts.len() / c.max(1)) as i64), Arg::I32(c as i32)],
    )
}
