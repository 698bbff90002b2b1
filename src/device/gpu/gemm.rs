//! Launches of the matrix products. Which tile a product gets is a matter of speed: bits do not depend on it.

use super::tensor_map::Shape;
use super::{Arg, Gpu, Launch, by_dtype};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::gemm::Store;

/// Rows up to which the tile for few rows is used: decode.
const FEW: usize = 16;
/// Tiles of 128 x 128 below which smaller ones keep more of a GPU busy: its multiprocessors.
const BUSY: usize = 132;

/// A tile's rows and columns, threads, dynamic shared memory.
struct Tile {
    rows: usize,
    columns: usize,
    threads: u32,
    shared_bytes: u32,
}

/// f32: many rows, few rows.
const F32: [Tile; 2] = [
    Tile { rows: 64, columns: 64, threads: 256, shared_bytes: 0 },
    Tile { rows: 16, columns: 64, threads: 64, shared_bytes: 0 },
];

/// bf16: many rows, some, few. Shared memory: slots of 64 steps of the tile's rows and columns.
const BF16: [Tile; 3] = [
    Tile { rows: 128, columns: 128, threads: 256, shared_bytes: 3 * 256 * 128 },
    Tile { rows: 64, columns: 64, threads: 128, shared_bytes: 3 * 128 * 128 },
    Tile { rows: 16, columns: 32, threads: 64, shared_bytes: 6 * 48 * 128 },
];

/// Hopper's tile; shared memory: four slots, and up to a multiple of 1024 bytes.
const SM90: Tile = Tile { rows: 128, columns: 256, threads: 384, shared_bytes: 4 * 384 * 128 + 1024 };

/// The kernels of one op: f32, bf16, and bf16 into f32, by tile.
struct Kernels {
    f32: [&'static str; 2],
    bf16: [&'static str; 3],
    bf16_f32: Option<[&'static str; 3]>,
    /// Hopper's: bf16, and bf16 into f32.
    sm90: Option<[&'static str; 2]>,
}

/// One product `c [M, N]`, with K.
struct Product<'a> {
    op: &'static str,
    a: View<'a>,
    b: View<'a>,
    c: ViewMut<'a>,
    dims: [usize; 3],
    /// Elements of a line of a, and of b.
    lines: [usize; 2],
    store: Store,
}

/// See [`crate::ops::gemm::gemm_nt`].
pub fn gemm_nt(gpu: &Gpu, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> Result<()> {
    let kernels = Kernels {
        f32: ["gemm_nt_f32", "gemm_nt_few_f32"],
        bf16: ["gemm_nt_bf16", "gemm_nt_some_bf16", "gemm_nt_few_bf16"],
        bf16_f32: Some(["gemm_nt_bf16_f32", "gemm_nt_some_bf16_f32", "gemm_nt_few_bf16_f32"]),
        sm90: Some(["gemm_nt_sm90_bf16", "gemm_nt_sm90_bf16_f32"]),
    };
    run(gpu, Product { op: "gemm_nt", a, b, c, dims: [m, n, k], lines: [k, k], store }, kernels)
}

/// See [`crate::ops::gemm::gemm_nn`].
pub fn gemm_nn(gpu: &Gpu, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> Result<()> {
    let kernels = Kernels {
        f32: ["gemm_nn_f32", "gemm_nn_few_f32"],
        bf16: ["gemm_nn_bf16", "gemm_nn_some_bf16", "gemm_nn_few_bf16"],
        bf16_f32: None,
        sm90: None,
    };
    run(gpu, Product { op: "gemm_nn", a, b, c, dims: [m, n, k], lines: [k, n], store }, kernels)
}

/// See [`crate::ops::gemm::gemm_tn`].
pub fn gemm_tn(gpu: &Gpu, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> Result<()> {
    let kernels = Kernels {
        f32: ["gemm_tn_f32", "gemm_tn_few_f32"],
        bf16: ["gemm_tn_bf16", "gemm_tn_some_bf16", "gemm_tn_few_bf16"],
        bf16_f32: Some(["gemm_tn_bf16_f32", "gemm_tn_some_bf16_f32", "gemm_tn_few_bf16_f32"]),
        sm90: None,
    };
    run(gpu, Product { op: "gemm_tn", a, b, c, dims: [m, n, k], lines: [m, n], store }, kernels)
}

fn run(gpu: &Gpu, p: Product, kernels: Kernels) -> Result<()> {
    let [m, n, k] = p.dims;
    if by_dtype(p.op, &[p.a.dtype(), p.b.dtype()])? == DType::F32 {
        by_dtype(p.op, &[p.a.dtype(), p.c.dtype()])?;
        let few = (m <= FEW) as usize;
        let Tile { rows, columns, .. } = F32[few];
        let grid = [m.div_ceil(rows) as u32, n.div_ceil(columns) as u32, 1];
        return launch(gpu, p, kernels.f32[few], &F32[few], grid, None);
    }
    let names = match (p.c.dtype(), kernels.bf16_f32) {
        (DType::F32, Some(names)) => names,
        (DType::F32, None) => return gpu.no_kernel(p.op),
        (c, _) => by_dtype(p.op, &[p.a.dtype(), c]).map(|_| kernels.bf16)?,
    };
    let tiles = move |tile: &Tile| m.div_ceil(tile.rows) * n.div_ceil(tile.columns);
    let size = if m <= FEW { 2 } else { (tiles(&BF16[0]) < BUSY) as usize };
    // Lines of whole 16-byte vectors, in buffers that start on one.
    let starts = p.a.address() as usize | p.b.address() as usize;
    let vectors = starts.is_multiple_of(16) && p.lines.iter().all(|line| line.is_multiple_of(8));
    if let Some(names) = kernels.sm90
        && gpu.hopper()
        && vectors
        && m > FEW
        && k > 0
    {
        let kernel = names[(p.c.dtype() == DType::F32) as usize];
        return launch_sm90(gpu, p, kernel, tiles(&SM90) as u32);
    }
    let grid = [tiles(&BF16[size]) as u32, 1, 1];
    launch(gpu, p, names[size], &BF16[size], grid, Some(Arg::I32(vectors as i32)))
}

fn launch(
    gpu: &Gpu,
    p: Product,
    kernel: &'static str,
    tile: &Tile,
    grid: [u32; 3],
    vectors: Option<Arg>,
) -> Result<()> {
    let [m, n, k] = p.dims;
    let n_args = 7 + vectors.is_some() as usize;
    let mut args = [
        Arg::In(p.a),
        Arg::In(p.b),
        Arg::Out(p.c),
        Arg::I64(m as i64),
        Arg::I64(n as i64),
        Arg::I64(k as i64),
        Arg::I32((p.store == Store::Add) as i32),
        vectors.unwrap_or(Arg::Null),
    ];
    let launch = Launch {
        kernel,
        op: p.op,
        grid,
        block: [tile.threads, 1, 1],
        shared_bytes: tile.shared_bytes,
        shape: &format_args!("M={m} N={n} K={k}"),
    };
    gpu.launch(&launch, &mut args[..n_args])
}

/// By tensor maps: both operands in boxes of 64 steps of 128 rows.
fn launch_sm90(gpu: &Gpu, p: Product, kernel: &'static str, blocks: u32) -> Result<()> {
    let [m, n, k] = p.dims;
    let map = |view, rows| gpu.tensor_map(p.op, view, Shape { dims: &[k, rows], strides: &[k], boxes: &[64, 128] });
    let mut args = [
        Arg::Map(map(p.a, m)?),
        Arg::Map(map(p.b, n)?),
        Arg::Out(p.c),
        Arg::I64(m as i64),
        Arg::I64(n as i64),
        Arg::I64(k as i64),
        Arg::I32((p.store == Store::Add) as i32),
    ];
    let launch = Launch {
        kernel,
        op: p.op,
        grid: [blocks, 1, 1],
        block: [SM90.threads, 1, 1],
        shared_bytes: SM90.shared_bytes,
        shape: &format_args!("M={m} N={n} K={k}"),
    };
    gpu.launch(&launch, &mut args)
}
