//! Launches of the embedding kernels, and of fill and copy.

use super::{Arg, Gpu, Launch, by_dtype};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;

const THREADS: u32 = 128;
/// Threads of a block where each has one element.
const ELEMENTS: u32 = 256;

/// See [`crate::ops::embed::embed_fwd`].
pub fn embed_fwd(gpu: &Gpu, ids: View, table: View, mut x: ViewMut, dim: usize) -> Result<()> {
    let (n, vocab, dtype) = (ids.len(), table.len() / dim, by_dtype("embed_fwd", &[table.dtype(), x.dtype()])?);
    // Rows of whole 16-byte vectors, in buffers that start on one.
    let vectors =
        (dim * dtype.size()).is_multiple_of(16) && (table.address() as usize | x.address() as usize).is_multiple_of(16);
    gpu.launch(
        &Launch {
            kernel: if dtype == DType::Bf16 { "embed_fwd_bf16" } else { "embed_fwd_f32" },
            op: "embed_fwd",
            grid: [n as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n} V={vocab} C={dim}"),
        },
        &mut [
            Arg::In(ids),
            Arg::In(table),
            Arg::Out(x),
            Arg::I32(vocab as i32),
            Arg::I32(dim as i32),
            Arg::I32(vectors as i32),
        ],
    )
}

/// See [`crate::ops::embed::embed_bwd`].
pub fn embed_bwd(gpu: &Gpu, ids: View, dx: View, dtable: ViewMut, dim: usize) -> Result<()> {
    let (n, vocab) = (ids.len(), dtable.len() / dim);
    let kernel = match (dx.dtype(), dtable.dtype()) {
        (DType::Bf16, DType::F32) => "embed_bwd_bf16_f32",
        (from, to) => match by_dtype("embed_bwd", &[from, to])? {
            DType::Bf16 => "embed_bwd_bf16",
            _ => "embed_bwd_f32",
        },
    };
    gpu.launch(
        &Launch {
            kernel,
            op: "embed_bwd",
            grid: [n as u32, dim.div_ceil(THREADS as usize) as u32, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n} V={vocab} C={dim}"),
        },
        &mut [
            Arg::In(ids),
            Arg::In(dx),
            Arg::Out(dtable),
            Arg::I32(n as i32),
            Arg::I32(vocab as i32),
            Arg::I32(dim as i32),
        ],
    )
}

/// See [`crate::ops::embed::fill`].
pub fn fill(gpu: &Gpu, x: ViewMut, value: f32) -> Result<()> {
    let n = x.len();
    gpu.launch(
        &Launch {
            kernel: if by_dtype("fill", &[x.dtype()])? == DType::Bf16 { "fill_bf16" } else { "fill_f32" },
            op: "fill",
            grid: [n.div_ceil(ELEMENTS as usize) as u32, 1, 1],
            block: [ELEMENTS, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n}"),
        },
        &mut [Arg::Out(x), Arg::I64(n as i64), Arg::F32(value)],
    )
}

/// See [`crate::ops::embed::copy`].
pub fn copy(gpu: &Gpu, x: View, y: ViewMut) -> Result<()> {
    let n = x.len();
    let kernel = match (x.dtype(), y.dtype()) {
        (DType::F32, DType::Bf16) => "copy_f32_bf16",
        (DType::Bf16, DType::F32) => "copy_bf16_f32",
        (from, to) => match by_dtype("copy", &[from, to])? {
            DType::Bf16 => "copy_bf16",
            _ => "copy_f32",
        },
    };
    gpu.launch(
        &Launch {
            kernel,
            op: "copy",
            grid: [n.div_ceil(ELEMENTS as usize) as u32, 1, 1],
            block: [ELEMENTS, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n}"),
        },
        &mut [Arg::In(x), Arg::Out(y), Arg::I64(n as i64)],
    )
}
