//! Launches of the embedding kernels, and of fill, copy, scale and add.

use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, holds, vector_width};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;

/// Threads of a block of embed_fwd and, at most, of embed_bwd.
const THREADS: usize = 128;
/// Places of the order that a block of embed_bwd has.
const PLACES: usize = 8;

/// See [`crate::ops::embed::embed_fwd`].
pub fn embed_fwd(gpu: &Gpu, ids: View, table: View, mut x: ViewMut, dim: usize) -> Result<()> {
    let (n, vocab, dtype) = (ids.len(), table.len() / dim, by_dtype("embed_fwd", &[table.dtype(), x.dtype()])?);
    let width = vector_width(dim, dtype, &[table.address(), x.address()]);
    let rows = (THREADS * width / dim.max(1)).max(1);
    gpu.launch_dependent(
        &Launch {
            kernel: if dtype == DType::Bf16 { "embed_fwd_bf16" } else { "embed_fwd_f32" },
            op: "embed_fwd",
            grid: [n.div_ceil(rows) as u32, 1, 1],
            block: [THREADS as u32, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n} V={vocab} C={dim}"),
        },
        &mut [
            Arg::In(ids),
            Arg::In(table),
            Arg::Out(x),
            Arg::I64(n as i64),
            Arg::I32(vocab as i32),
            Arg::I32(dim as i32),
            Arg::I32(rows as i32),
            Arg::I32((width > 1) as i32),
        ],
    )
}

/// See [`crate::ops::embed::embed_order_len`].
pub fn embed_order_len(n: usize) -> usize {
    2 * n
}

/// See [`crate::ops::embed::embed_bwd`].
pub fn embed_bwd(gpu: &Gpu, ids: View, dx: View, dtable: ViewMut, mut order: ViewMut, dim: usize) -> Result<()> {
    let (n, vocab) = (ids.len(), dtable.len() / dim);
    holds("embed_bwd", DType::I32, &[("ids", ids.dtype()), ("order", order.dtype())])?;
    let kernel = match (dx.dtype(), dtable.dtype()) {
        (DType::Bf16, DType::F32) => "embed_bwd_bf16_f32",
        (from, to) => match by_dtype("embed_bwd", &[from, to])? {
            DType::Bf16 => "embed_bwd_bf16",
            _ => "embed_bwd_f32",
        },
    };
    if n == 0 {
        return Ok(());
    }
    let launch = Launch {
        kernel: "embed_order",
        op: "embed_bwd",
        grid: [1, 1, 1],
        block: [1024, 1, 1],
        shared_bytes: 0,
        shape: &format_args!("N={n} V={vocab} C={dim}"),
    };
    let args = &mut [Arg::In(ids), Arg::Out(order.reborrow()), Arg::I32(n as i32), Arg::I32(vocab as i32)];
    gpu.launch(&launch, args)?;
    // A pass for each byte of V; they take turns with the two halves.
    let passes = (vocab.max(1).ilog2() / 8 + 1) as usize;
    let sorted = (passes - 1) % 2 * n;
    let widest = if dtable.dtype() == DType::Bf16 { DType::Bf16 } else { DType::F32 };
    let width = vector_width(dim, widest, &[dx.address(), dtable.view().address()]);
    let threads = dim.div_ceil(width).next_multiple_of(32).min(THREADS);
    gpu.launch(
        &Launch {
            kernel,
            grid: [n.div_ceil(PLACES) as u32, dim.div_ceil(threads * width) as u32, 1],
            block: [threads as u32, 1, 1],
            ..launch
        },
        &mut [
            Arg::In(ids),
            Arg::In(order.view().at(sorted..sorted + n)),
            Arg::In(dx),
            Arg::Out(dtable),
            Arg::I32(n as i32),
            Arg::I32(vocab as i32),
            Arg::I32(dim as i32),
            Arg::I32((width > 1) as i32),
        ],
    )
}

/// See [`crate::ops::embed::fill`].
pub fn fill(gpu: &Gpu, mut x: ViewMut, value: f32) -> Result<()> {
    let (n, dtype) = (x.len(), by_dtype("fill", &[x.dtype()])?);
    let width = vector_width(n, dtype, &[x.address()]);
    let kernel = if dtype == DType::Bf16 { "fill_bf16" } else { "fill_f32" };
    gpu.launch(
        &Launch::elements(kernel, "fill", n, width, &format_args!("N={n}")),
        &mut [Arg::Out(x), Arg::I64(n as i64), Arg::F32(value), Arg::I32((width > 1) as i32)],
    )
}

/// See [`crate::ops::embed::copy`].
pub fn copy(gpu: &Gpu, x: View, mut y: ViewMut) -> Result<()> {
    let n = x.len();
    let (kernel, widest) = match (x.dtype(), y.dtype()) {
        (DType::F32, DType::Bf16) => ("copy_f32_bf16", DType::F32),
        (DType::Bf16, DType::F32) => ("copy_bf16_f32", DType::F32),
        (from, to) => match by_dtype("copy", &[from, to])? {
            DType::Bf16 => ("copy_bf16", DType::Bf16),
            _ => ("copy_f32", DType::F32),
        },
    };
    let width = vector_width(n, widest, &[x.address(), y.address()]);
    gpu.launch(
        &Launch::elements(kernel, "copy", n, width, &format_args!("N={n}")),
        &mut [Arg::In(x), Arg::Out(y), Arg::I64(n as i64), Arg::I32((width > 1) as i32)],
    )
}

/// See [`crate::ops::embed::scale`].
pub fn scale(gpu: &Gpu, x: View, mut y: ViewMut, factor: f32) -> Result<()> {
    let n = x.len();
    let (kernel, widest) = match (x.dtype(), y.dtype()) {
        (DType::F32, DType::Bf16) => ("scale_f32_bf16", DType::F32),
        (from, to) => match by_dtype("scale", &[from, to])? {
            DType::Bf16 => ("scale_bf16", DType::Bf16),
            _ => ("scale_f32", DType::F32),
        },
    };
    let width = vector_width(n, widest, &[x.address(), y.address()]);
    gpu.launch(
        &Launch::elements(kernel, "scale", n, width, &format_args!("N={n}")),
        &mut [Arg::In(x), Arg::Out(y), Arg::I64(n as i64), Arg::F32(factor), Arg::I32((width > 1) as i32)],
    )
}

/// See [`crate::ops::embed::add`].
pub fn add(gpu: &Gpu, x: View, mut y: ViewMut) -> Result<()> {
    let n = x.len();
    holds("add", DType::F32, &[("x", x.dtype()), ("y", y.dtype())])?;
    let width = vector_width(n, DType::F32, &[x.address(), y.address()]);
    gpu.launch(
        &Launch::elements("add_f32", "add", n, width, &format_args!("N={n}")),
        &mut [Arg::In(x), Arg::Out(y), Arg::I64(n as i64), Arg::I32((width > 1) as i32)],
    )
}
