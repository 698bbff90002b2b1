//! Launches of the norm kernels.

use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, holds, vector_width};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use std::fmt::Display;

/// Lanes of a row's sum, and threads of a block, of rmsnorm_fwd at least and at most.
const LANES: usize = 16;
const THREADS: u32 = 128;
const MOST_THREADS: usize = 512;
/// Elements of the rows of a pass, about: of rmsnorm_fwd, and of rmsnorm_bwd, which has two tensors of them.
const TILE: usize = 8192;
const BWD_TILE: usize = 4096;
/// Passes of a block at most.
const MOST_PASSES: usize = 8;

/// Rows of a pass at most: half a warp sums one.
const MOST_ROWS: usize = 8;
/// Blocks of a cluster that shares w.
const CLUSTER: usize = 8;

/// Whether blocks of so many rows share w among a cluster: alone they would read it for too few.
fn share_weight(gpu: &Gpu, rows: usize, blocks: usize) -> bool {
    gpu.hopper() && rows < MOST_ROWS && blocks > 1
}

/// Rows of a pass.
fn rows_of(tile: usize, c: usize) -> usize {
    (tile / c.max(1)).clamp(1, MOST_ROWS)
}

/// Passes of a block over its rows, one after another, so that there are no more than four blocks a multiprocessor: a
/// block reads the weight once.
fn passes_of(gpu: &Gpu, n: usize, rows: usize) -> usize {
    n.div_ceil(rows).div_ceil(4 * gpu.multiprocessors()).clamp(1, MOST_PASSES)
}

/// See [`crate::ops::norm::rmsnorm_fwd`].
pub fn rmsnorm_fwd(gpu: &Gpu, x: View, w: View, mut y: ViewMut, rstd: ViewMut, eps: f32) -> Result<()> {
    let (n, c) = (rstd.len(), w.len());
    // Wide rows are few to a pass; where they are few as well, each multiprocessor has some.
    let rows = match rows_of(TILE, c) {
        MOST_ROWS => MOST_ROWS,
        fit => fit.min(n.div_ceil(gpu.multiprocessors())).max(1),
    };
    let passes = passes_of(gpu, n, rows);
    let blocks = n.div_ceil(rows * passes);
    let cluster = share_weight(gpu, rows * passes, blocks);
    let width = vector_width(c, x.dtype(), &[x.address(), w.address(), y.address()]);
    let threads = (rows * c).div_ceil(2 * width).next_multiple_of(THREADS as usize).min(MOST_THREADS);
    gpu.launch_dependent(
        &Launch {
            kernel: match (x.dtype() == DType::Bf16, cluster) {
                (false, false) => "rmsnorm_fwd_f32",
                (false, true) => "rmsnorm_fwd_sm90_f32",
                (true, false) => "rmsnorm_fwd_bf16",
                (true, true) => "rmsnorm_fwd_sm90_bf16",
            },
            op: "rmsnorm_fwd",
            grid: [if cluster { blocks.next_multiple_of(CLUSTER) } else { blocks } as u32, 1, 1],
            block: [threads as u32, 1, 1],
            // The rows, and w.
            shared_bytes: ((rows + 1) * (c + LANES) * x.dtype().size()) as u32,
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
            Arg::I32(rows as i32),
            Arg::I32(passes as i32),
            Arg::I32((width > 1) as i32),
        ],
    )
}

/// Rows that are summed from zero before they are added to dw, and chains of rows among them, a block each.
const BLOCK: usize = 64;
const CHAINS: usize = 4;
/// Bytes of shared memory up to which a block of rmsnorm_bwd has the sums of columns there.
const STAGED_BYTES: usize = 96 << 10;
/// Threads of a block of bias_bwd_parts, which sums columns over rows, each with a vector of them.
pub(crate) const PART_THREADS: usize = 32;
/// Columns of a thread block that adds the sums to dw, and its threads.
const DW_COLUMNS: usize = 32;
const DW_THREADS: u32 = 1024;

/// See [`crate::ops::norm::rmsnorm_parts_len`].
pub fn parts_len(n: usize, dim: usize) -> usize {
    n.div_ceil(BLOCK) * CHAINS * dim
}

/// Rows of a block that makes no sums for dw and reads w alone, at least, where each multiprocessor has one.
const FROZEN_ROWS: usize = 4;

/// See [`crate::ops::norm::rmsnorm_bwd`]; dw is f32.
pub fn rmsnorm_bwd(
    gpu: &Gpu,
    [dy, x, w, rstd]: [View; 4],
    mut dx: ViewMut,
    dw: Option<ViewMut>,
    mut parts: ViewMut,
) -> Result<()> {
    let (n, c) = (rstd.len(), w.len());
    let is_bf16 = by_dtype("rmsnorm_bwd", &[dy.dtype(), x.dtype(), w.dtype(), dx.dtype()])? == DType::Bf16;
    let (shape, rows) = (format_args!("N={n} C={c}"), rows_of(BWD_TILE, c));
    let alone = !gpu.hopper() && n >= FROZEN_ROWS * gpu.multiprocessors();
    let passes = passes_of(gpu, n, rows).max(if alone { FROZEN_ROWS.div_ceil(rows) } else { 1 });
    // dy and x of the rows, and w; the sums of columns stand beside them where there is room.
    let (of_rows, sums) = ((2 * rows + 1) * (c + LANES) * x.dtype().size(), c * size_of::<f32>());
    let staged = dw.is_some() && of_rows + sums <= STAGED_BYTES;
    let blocks = if dw.is_some() { n.div_ceil(BLOCK) * CHAINS } else { n.div_ceil(rows * passes) };
    let cluster = dw.is_none() && share_weight(gpu, rows * passes, blocks);
    let width = vector_width(c, x.dtype(), &[dy.address(), x.address(), w.address(), dx.address(), parts.address()]);
    gpu.launch(
        &Launch {
            kernel: match (is_bf16, cluster) {
                (false, false) => "rmsnorm_bwd_f32",
                (false, true) => "rmsnorm_bwd_sm90_f32",
                (true, false) => "rmsnorm_bwd_bf16",
                (true, true) => "rmsnorm_bwd_sm90_bf16",
            },
            op: "rmsnorm_bwd",
            grid: [if cluster { blocks.next_multiple_of(CLUSTER) } else { blocks } as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: (of_rows + if staged { sums } else { 0 }) as u32,
            shape: &shape,
        },
        &mut [
            Arg::In(dy),
            Arg::In(x),
            Arg::In(w),
            Arg::In(rstd),
            Arg::Out(dx),
            if dw.is_some() { Arg::Out(parts.reborrow()) } else { Arg::Null },
            Arg::I64(n as i64),
            Arg::I32(c as i32),
            Arg::I32(rows as i32),
            Arg::I32(passes as i32),
            Arg::I32(staged as i32),
            Arg::I32((width > 1) as i32),
        ],
    )?;
    let Some(dw) = dw else { return Ok(()) };
    holds("rmsnorm_bwd", DType::F32, &[("dw", dw.dtype()), ("parts", parts.dtype())])?;
    add_parts(gpu, "rmsnorm_bwd", parts.view(), CHAINS, dw, &shape)
}

/// `dw += ` the sums of blocks of rows, parts `[P, chains, C]` of 1 or 4 chains, in order; both f32.
pub(crate) fn add_parts(
    gpu: &Gpu,
    op: &'static str,
    parts: View,
    chains: usize,
    dw: ViewMut,
    shape: &dyn Display,
) -> Result<()> {
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
        &mut [
            Arg::In(parts),
            Arg::Out(dw),
            Arg::I64((parts.len() / (chains * c).max(1)) as i64),
            Arg::I32(chains as i32),
            Arg::I32(c as i32),
        ],
    )
}
