//! Launches of the grouped products. Which tile they get is a matter of speed: bits do not depend on it.

use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, holds};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::gemm::Store;
use crate::ops::gemm::gpu::{F32, FEW};
use crate::ops::gemm::tiles::{Block, T16X32, T64X64, T128X128, Tile};

/// Rows an expert from which on the largest tile is used.
const MANY: usize = 128;
/// Tiles in bf16: many rows an expert, some, few.
const BF16: [Tile; 3] = [T128X128, T64X64, T16X32];

/// One product over rows: kernels in f32 (many rows an expert, few) and bf16 (many, some, few).
struct Rows<'a> {
    op: &'static str,
    f32: [&'static str; 2],
    bf16: [&'static str; 3],
    a: View<'a>,
    b: View<'a>,
    c: ViewMut<'a>,
    offsets: View<'a>,
    n: usize,
    k: usize,
    /// The elements of a line of b.
    line: usize,
    store: Store,
}

/// See [`crate::ops::gemm_grouped::gemm_grouped_nt`].
pub fn gemm_grouped_nt(
    gpu: &Gpu,
    a: View,
    b: View,
    c: ViewMut,
    offsets: View,
    n: usize,
    k: usize,
    store: Store,
) -> Result<()> {
    let f32 = ["gemm_grouped_nt_f32", "gemm_grouped_nt_few_f32"];
    let bf16 = ["gemm_grouped_nt_128x128_bf16", "gemm_grouped_nt_64x64_bf16", "gemm_grouped_nt_16x32_bf16"];
    rows(gpu, Rows { op: "gemm_grouped_nt", f32, bf16, a, b, c, offsets, n, k, line: k, store }, Gpu::launch_dependent)
}

/// See [`crate::ops::gemm_grouped::gemm_grouped_nn`].
pub fn gemm_grouped_nn(
    gpu: &Gpu,
    a: View,
    b: View,
    c: ViewMut,
    offsets: View,
    n: usize,
    k: usize,
    store: Store,
) -> Result<()> {
    let f32 = ["gemm_grouped_nn_f32", "gemm_grouped_nn_few_f32"];
    let bf16 = ["gemm_grouped_nn_128x128_bf16", "gemm_grouped_nn_64x64_bf16", "gemm_grouped_nn_16x32_bf16"];
    rows(gpu, Rows { op: "gemm_grouped_nn", f32, bf16, a, b, c, offsets, n, k, line: n, store }, Gpu::launch)
}

/// How a kernel is launched.
type Begin = fn(&Gpu, &Launch, &mut [Arg]) -> Result<()>;

fn rows(gpu: &Gpu, p: Rows, begin: Begin) -> Result<()> {
    let (e, r, n, k) = (p.offsets.len() - 1, p.c.len() / p.n.max(1), p.n, p.k);
    holds(p.op, DType::I32, &[("offsets", p.offsets.dtype())])?;
    let dtype = by_dtype(p.op, &[p.a.dtype(), p.b.dtype(), p.c.dtype()])?;
    // Rows an expert, were they shared out evenly.
    let each = r.div_ceil(e.max(1));
    let few = (each <= FEW) as usize;
    let (kernel, Block { rows, columns, threads, shared_bytes }, vectors) = if dtype == DType::F32 {
        (p.f32[few], F32[few], None)
    } else {
        let size = if few == 1 { 2 } else { (each < MANY) as usize };
        (p.bf16[size], BF16[size].block(), Some(Arg::I32(vectors([p.a, p.b], [k, p.line]) as i32)))
    };
    // As many tiles as there can be: an expert that has rows has one that is not full, at most.
    let tiles = r / rows + e.min(r);
    let n_args = 8 + vectors.is_some() as usize;
    let mut args = [
        Arg::In(p.a),
        Arg::In(p.b),
        Arg::In(p.offsets),
        Arg::Out(p.c),
        Arg::I32(e as i32),
        Arg::I64(n as i64),
        Arg::I64(k as i64),
        Arg::I32((p.store == Store::Add) as i32),
        vectors.unwrap_or(Arg::Null),
    ];
    let launch = Launch {
        kernel,
        op: p.op,
        grid: [(tiles * n.div_ceil(columns)) as u32, 1, 1],
        block: [threads, 1, 1],
        shared_bytes,
        shape: &format_args!("R={r} E={e} N={n} K={k}"),
    };
    begin(gpu, &launch, &mut args[..n_args])
}

/// See [`crate::ops::gemm_grouped::gemm_grouped_tn`].
pub fn gemm_grouped_tn(
    gpu: &Gpu,
    a: View,
    b: View,
    c: ViewMut,
    offsets: View,
    m: usize,
    n: usize,
    store: Store,
) -> Result<()> {
    let (op, e, r) = ("gemm_grouped_tn", offsets.len() - 1, a.len() / m.max(1));
    holds(op, DType::I32, &[("offsets", offsets.dtype())])?;
    holds(op, DType::F32, &[("c", c.dtype())])?;
    let dtype = by_dtype(op, &[a.dtype(), b.dtype()])?;
    // The largest where it keeps every multiprocessor busy.
    let size = (e * BF16[0].blocks(m, n) < gpu.multiprocessors()) as usize;
    let (kernel, Block { rows, columns, threads, shared_bytes }, vectors) = match dtype {
        DType::F32 => ("gemm_grouped_tn_f32", F32[0], None),
        _ => (
            ["gemm_grouped_tn_128x128_bf16_f32", "gemm_grouped_tn_64x64_bf16_f32"][size],
            BF16[size].block(),
            Some(Arg::I32(vectors([a, b], [m, n]) as i32)),
        ),
    };
    let n_args = 7 + vectors.is_some() as usize;
    let mut args = [
        Arg::In(a),
        Arg::In(b),
        Arg::In(offsets),
        Arg::Out(c),
        Arg::I64(m as i64),
        Arg::I64(n as i64),
        Arg::I32((store == Store::Add) as i32),
        vectors.unwrap_or(Arg::Null),
    ];
    let launch = Launch {
        kernel,
        op,
        grid: [(e * m.div_ceil(rows) * n.div_ceil(columns)) as u32, 1, 1],
        block: [threads, 1, 1],
        shared_bytes,
        shape: &format_args!("R={r} E={e} M={m} N={n}"),
    };
    gpu.launch(&launch, &mut args[..n_args])
}

/// Lines of whole 16-byte vectors, in buffers that start on one.
fn vectors(operands: [View; 2], lines: [usize; 2]) -> bool {
    operands.iter().all(|x| (x.address() as usize).is_multiple_of(16))
        && lines.iter().all(|line| line.is_multiple_of(8))
}
