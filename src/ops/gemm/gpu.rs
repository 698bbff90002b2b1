//! Launches of the matrix products. Which tile a product gets is a matter of speed: bits do not depend on it.

use crate::device::gpu::tensor_map::{Shape, TensorMap};
use crate::device::gpu::{Arg, Gpu, Launch, by_dtype};
use crate::device::{DType, View, ViewMut};
use crate::error::{Error, Result};
use crate::ops::gemm::Store;

/// Rows up to which the tile for few rows is used: decode.
pub(crate) const FEW: usize = 16;
/// Tiles of 128 x 128 below which smaller ones keep more of a GPU busy: its multiprocessors.
pub(crate) const BUSY: usize = 132;

/// A tile's rows and columns, threads, dynamic shared memory.
pub(crate) struct Tile {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
}

/// f32: many rows, few rows.
pub(crate) const F32: [Tile; 2] = [
    Tile { rows: 64, columns: 64, threads: 256, shared_bytes: 0 },
    Tile { rows: 16, columns: 64, threads: 64, shared_bytes: 0 },
];

/// bf16: many rows, some, few. Shared memory: slots of 64 steps of the tile's rows and columns.
pub(crate) const BF16: [Tile; 3] = [
    Tile { rows: 128, columns: 128, threads: 256, shared_bytes: 3 * 256 * 128 },
    Tile { rows: 64, columns: 64, threads: 128, shared_bytes: 3 * 128 * 128 },
    Tile { rows: 16, columns: 32, threads: 64, shared_bytes: 6 * 48 * 128 },
];

/// Hopper's tile (kernels/common/gemm_sm90.cuh); shared memory: four slots, and up to a multiple of 1024 bytes.
pub(crate) const SM90: Tile = Tile { rows: 128, columns: 256, threads: 384, shared_bytes: 4 * 384 * 128 + 1024 };

/// The kernels of one op: f32, bf16, and bf16 into f32, by tile; of bf16 the last is Hopper's.
struct Kernels {
    f32: [&'static str; 2],
    bf16: [&'static str; 4],
    bf16_f32: Option<[&'static str; 4]>,
}

/// One product `c [M, N]`, with K.
struct Product<'a> {
    op: &'static str,
    a: View<'a>,
    b: View<'a>,
    c: ViewMut<'a>,
    dims: [usize; 3],
    /// Whether a, and b, is stored K by K.
    by_k: [bool; 2],
    store: Store,
}

/// See [`crate::ops::gemm::gemm_nt`].
pub fn gemm_nt(gpu: &Gpu, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> Result<()> {
    let kernels = Kernels {
        f32: ["gemm_nt_f32", "gemm_nt_few_f32"],
        bf16: ["gemm_nt_128x128_bf16", "gemm_nt_64x64_bf16", "gemm_nt_16x32_bf16", "gemm_nt_sm90_bf16"],
        bf16_f32: Some([
            "gemm_nt_128x128_bf16_f32",
            "gemm_nt_64x64_bf16_f32",
            "gemm_nt_16x32_bf16_f32",
            "gemm_nt_sm90_bf16_f32",
        ]),
    };
    run(gpu, Product { op: "gemm_nt", a, b, c, dims: [m, n, k], by_k: [false, false], store }, kernels)
}

/// The same without tiles, vectors or tensor cores: what benchmarks hold [`gemm_nt`] against. All f32 or all bf16.
///
/// # Errors
/// As there.
pub fn gemm_nt_naive(gpu: &Gpu, a: View, b: View, c: ViewMut, [m, n, k]: [usize; 3]) -> Result<()> {
    let op = "gemm_nt_naive";
    for (got, want) in [(a.len(), m * k), (b.len(), n * k), (c.len(), m * n)] {
        if got != want {
            return Err(Error::Shape { op, rule: "a [M, K], b [N, K], c [M, N]", want, got });
        }
    }
    let is_f32 = by_dtype(op, &[a.dtype(), b.dtype(), c.dtype()])? == DType::F32;
    let launch = Launch {
        kernel: if is_f32 { "gemm_nt_naive_f32" } else { "gemm_nt_naive_bf16" },
        op,
        grid: [n.div_ceil(16) as u32, m.div_ceil(16) as u32, 1],
        block: [16, 16, 1],
        shared_bytes: 0,
        shape: &format_args!("M={m} N={n} K={k}"),
    };
    let dims = [m, n, k].map(|dim| Arg::I64(dim as i64));
    let [m, n, k] = dims;
    gpu.launch(&launch, &mut [Arg::In(a), Arg::In(b), Arg::Out(c), m, n, k])
}

/// See [`crate::ops::gemm::gemm_nn`].
pub fn gemm_nn(gpu: &Gpu, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> Result<()> {
    let kernels = Kernels {
        f32: ["gemm_nn_f32", "gemm_nn_few_f32"],
        bf16: ["gemm_nn_128x128_bf16", "gemm_nn_64x64_bf16", "gemm_nn_16x32_bf16", "gemm_nn_sm90_bf16"],
        bf16_f32: None,
    };
    run(gpu, Product { op: "gemm_nn", a, b, c, dims: [m, n, k], by_k: [false, true], store }, kernels)
}

/// See [`crate::ops::gemm::gemm_tn`].
pub fn gemm_tn(gpu: &Gpu, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> Result<()> {
    let kernels = Kernels {
        f32: ["gemm_tn_f32", "gemm_tn_few_f32"],
        bf16: ["gemm_tn_128x128_bf16", "gemm_tn_64x64_bf16", "gemm_tn_16x32_bf16", "gemm_tn_sm90_bf16"],
        bf16_f32: Some([
            "gemm_tn_128x128_bf16_f32",
            "gemm_tn_64x64_bf16_f32",
            "gemm_tn_16x32_bf16_f32",
            "gemm_tn_sm90_bf16_f32",
        ]),
    };
    run(gpu, Product { op: "gemm_tn", a, b, c, dims: [m, n, k], by_k: [true, true], store }, kernels)
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
    let line = |by_k: bool, rows: usize| if by_k { rows } else { k };
    let lines = [line(p.by_k[0], m), line(p.by_k[1], n)];
    let vectors = starts.is_multiple_of(16) && lines.iter().all(|line| line.is_multiple_of(8));
    if gpu.hopper() && vectors && m > FEW && n > 0 && k > 0 {
        return launch_sm90(gpu, p, names[3], tiles(&SM90) as u32);
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

/// The map of an operand of a product by Hopper's tile: boxes of 64 steps of 128 rows, or, K by K, of 64 rows of 64 steps.
pub(crate) fn operand_map<'a>(
    gpu: &Gpu,
    op: &'static str,
    view: View<'a>,
    [rows, k]: [usize; 2],
    by_k: bool,
) -> Result<TensorMap<'a>> {
    let (dims, strides, boxes) = if by_k { ([rows, k], [rows], [64, 64]) } else { ([k, rows], [k], [64, 128]) };
    gpu.tensor_map(op, view, Shape { dims: &dims, strides: &strides, boxes: &boxes })
}

/// By tensor maps.
fn launch_sm90(gpu: &Gpu, p: Product, kernel: &'static str, blocks: u32) -> Result<()> {
    let [m, n, k] = p.dims;
    let mut args = [
        Arg::Map(operand_map(gpu, p.op, p.a, [m, k], p.by_k[0])?),
        Arg::Map(operand_map(gpu, p.op, p.b, [n, k], p.by_k[1])?),
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
