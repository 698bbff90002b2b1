//! Launches of the matrix products. Which tile a product gets ([`super::tiles`]) is a matter of speed: bits do not depend
//! on it.

use super::tiles::{self, Block, Tile};
use crate::device::gpu::tensor_map::{Shape, TensorMap};
use crate::device::gpu::{Arg, Gpu, Launch, by_dtype};
use crate::device::{DType, View, ViewMut};
use crate::error::{Error, Result};
use crate::ops::gemm::Store;

/// Rows up to which f32 has a tile for few rows: decode.
pub(crate) const FEW: usize = 16;

/// f32: many rows, few rows.
pub(crate) const F32: [Block; 2] = [
    Block { rows: 64, columns: 64, threads: 256, shared_bytes: 0 },
    Block { rows: 16, columns: 64, threads: 64, shared_bytes: 0 },
];

/// A tile of an op in bf16: its kernels into bf16, and into f32 where there is one.
struct Kernel {
    tile: Tile,
    bf16: &'static str,
    f32: Option<&'static str>,
}

/// A product of two matrices and its kernels.
pub struct Op {
    stem: &'static str,
    /// Whether a, and b, is stored K by K.
    by_k: [bool; 2],
    /// Many rows, few.
    f32: [&'static str; 2],
    /// Of equally good ones the first is taken: of one tile that which reads rows once for eight blocks.
    bf16: &'static [Kernel],
}

const fn kernel(tile: Tile, bf16: &'static str, f32: &'static str) -> Kernel {
    Kernel { tile, bf16, f32: Some(f32) }
}

/// `c = a b^T`
pub static NT: Op = Op {
    stem: "gemm_nt",
    by_k: [false, false],
    f32: ["gemm_nt_f32", "gemm_nt_few_f32"],
    bf16: &[
        kernel(tiles::SM90_16X8, "gemm_nt_sm90_16x8_bf16", "gemm_nt_sm90_16x8_bf16_f32"),
        kernel(tiles::T16X8, "gemm_nt_16x8_bf16", "gemm_nt_16x8_bf16_f32"),
        kernel(tiles::SM90_16X32, "gemm_nt_sm90_16x32_bf16", "gemm_nt_sm90_16x32_bf16_f32"),
        kernel(tiles::T16X32, "gemm_nt_16x32_bf16", "gemm_nt_16x32_bf16_f32"),
        kernel(tiles::SM90_64X32, "gemm_nt_sm90_64x32_bf16", "gemm_nt_sm90_64x32_bf16_f32"),
        kernel(tiles::T64X32, "gemm_nt_64x32_bf16", "gemm_nt_64x32_bf16_f32"),
        kernel(tiles::T64X64, "gemm_nt_64x64_bf16", "gemm_nt_64x64_bf16_f32"),
        kernel(tiles::T128X128, "gemm_nt_128x128_bf16", "gemm_nt_128x128_bf16_f32"),
        kernel(tiles::SM90_128X128, "gemm_nt_sm90_128x128_bf16", "gemm_nt_sm90_128x128_bf16_f32"),
        kernel(tiles::SM90_128X256, "gemm_nt_sm90_128x256_bf16", "gemm_nt_sm90_128x256_bf16_f32"),
    ],
};

/// `c = a b`
pub static NN: Op = Op {
    stem: "gemm_nn",
    by_k: [false, true],
    f32: ["gemm_nn_f32", "gemm_nn_few_f32"],
    bf16: &[
        Kernel { tile: tiles::T16X32, bf16: "gemm_nn_16x32_bf16", f32: None },
        Kernel { tile: tiles::T64X64, bf16: "gemm_nn_64x64_bf16", f32: None },
        Kernel { tile: tiles::T128X128, bf16: "gemm_nn_128x128_bf16", f32: None },
        Kernel { tile: tiles::SM90_128X128, bf16: "gemm_nn_sm90_128x128_bf16", f32: None },
        Kernel { tile: tiles::SM90_128X256, bf16: "gemm_nn_sm90_128x256_bf16", f32: None },
    ],
};

/// `c = a^T b`
pub static TN: Op = Op {
    stem: "gemm_tn",
    by_k: [true, true],
    f32: ["gemm_tn_f32", "gemm_tn_few_f32"],
    bf16: &[
        kernel(tiles::T16X32, "gemm_tn_16x32_bf16", "gemm_tn_16x32_bf16_f32"),
        kernel(tiles::T64X64, "gemm_tn_64x64_bf16", "gemm_tn_64x64_bf16_f32"),
        kernel(tiles::T128X128, "gemm_tn_128x128_bf16", "gemm_tn_128x128_bf16_f32"),
        kernel(tiles::SM90_128X128, "gemm_tn_sm90_128x128_bf16", "gemm_tn_sm90_128x128_bf16_f32"),
        kernel(tiles::SM90_128X256, "gemm_tn_sm90_128x256_bf16", "gemm_tn_sm90_128x256_bf16_f32"),
    ],
};

impl Op {
    /// Its tiles in bf16 on a card that has Hopper's instructions, or not.
    pub fn tiles(&self, hopper: bool) -> impl Iterator<Item = Tile> {
        let tiles = self.bf16.iter().map(|kernel| kernel.tile);
        tiles.filter(move |tile| hopper || !tile.needs_hopper())
    }

    /// The tile by which the product `[m, n, k]` in bf16 is done first on such a card of `sms` multiprocessors.
    pub fn tile(&self, dims: [usize; 3], hopper: bool, sms: usize) -> Option<Tile> {
        let decodes = hopper && self.by_k == [false, false];
        tiles::first_done(self.tiles(hopper).filter(|tile| tile.suits(dims[0], decodes)), dims, sms)
    }
}

/// One product `c [M, N]`, with K.
struct Product<'a> {
    a: View<'a>,
    b: View<'a>,
    c: ViewMut<'a>,
    dims: [usize; 3],
    store: Store,
}

/// See [`crate::ops::gemm::gemm_nt`].
pub fn gemm_nt(gpu: &Gpu, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> Result<()> {
    run(gpu, &NT, Product { a, b, c, dims: [m, n, k], store }, None)
}

/// See [`crate::ops::gemm::gemm_nn`].
pub fn gemm_nn(gpu: &Gpu, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> Result<()> {
    run(gpu, &NN, Product { a, b, c, dims: [m, n, k], store }, None)
}

/// See [`crate::ops::gemm::gemm_tn`].
pub fn gemm_tn(gpu: &Gpu, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> Result<()> {
    run(gpu, &TN, Product { a, b, c, dims: [m, n, k], store }, None)
}

/// A product in bf16 by this tile, one of the op's, whichever would be chosen: what the tests of tiles compare.
///
/// # Errors
/// What the op refuses.
pub fn by_tile(
    gpu: &Gpu,
    op: &Op,
    tile: Tile,
    [a, b]: [View; 2],
    c: ViewMut,
    dims: [usize; 3],
    store: Store,
) -> Result<()> {
    run(gpu, op, Product { a, b, c, dims, store }, Some(tile))
}

fn run(gpu: &Gpu, op: &Op, p: Product, tile: Option<Tile>) -> Result<()> {
    let [m, n, k] = p.dims;
    if by_dtype(op.stem, &[p.a.dtype(), p.b.dtype()])? == DType::F32 {
        by_dtype(op.stem, &[p.a.dtype(), p.c.dtype()])?;
        let few = (m <= FEW) as usize;
        let block = &F32[few];
        let grid = [m.div_ceil(block.rows) as u32, n.div_ceil(block.columns) as u32, 1];
        return launch(gpu, op, p, op.f32[few], block, grid, None);
    }
    if k > i32::MAX as usize {
        return Err(Error::Shape { op: op.stem, rule: "K is below 2^31", want: i32::MAX as usize, got: k });
    }
    // Lines of whole 16-byte vectors, in buffers that start on one.
    let starts = p.a.address() as usize | p.b.address() as usize;
    let line = |by_k: bool, rows: usize| if by_k { rows } else { k };
    let lines = [line(op.by_k[0], m), line(op.by_k[1], n)];
    let vectors = starts.is_multiple_of(16) && lines.iter().all(|line| line.is_multiple_of(8));
    let hopper = gpu.hopper() && vectors && n > 0 && k > 0;
    let tile = tile.or_else(|| op.tile(p.dims, hopper, gpu.multiprocessors()));
    let Some(kernel) = op.bf16.iter().find(|kernel| Some(kernel.tile) == tile) else { return gpu.no_kernel(op.stem) };
    let name = match (p.c.dtype(), kernel.f32) {
        (DType::F32, Some(name)) => name,
        (DType::F32, None) => return gpu.no_kernel(op.stem),
        (into, _) => by_dtype(op.stem, &[DType::Bf16, into]).map(|_| kernel.bf16)?,
    };
    let (block, grid) = (kernel.tile.block(), [kernel.tile.blocks(m, n) as u32, 1, 1]);
    match kernel.tile.by_maps() {
        true => launch_sm90(gpu, op, p, name, kernel.tile),
        false => launch(gpu, op, p, name, &block, grid, Some(Arg::I32(vectors as i32))),
    }
}

/// Launches a product. That of the forward may begin early: its b is a weight, which no launch of its step writes.
fn begin(gpu: &Gpu, op: &Op, launch: &Launch, args: &mut [Arg]) -> Result<()> {
    match op.by_k {
        [false, false] => gpu.launch_dependent(launch, args),
        _ => gpu.launch(launch, args),
    }
}

fn launch(
    gpu: &Gpu,
    op: &Op,
    p: Product,
    kernel: &'static str,
    block: &Block,
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
        op: op.stem,
        grid,
        block: [block.threads, 1, 1],
        shared_bytes: block.shared_bytes,
        shape: &format_args!("M={m} N={n} K={k}"),
    };
    begin(gpu, op, &launch, &mut args[..n_args])
}

/// The map of an operand of a product by Hopper's tile, which has so many lines of it: boxes of 64 steps of them, of 128 at most,
/// or, K by K, of 64 lines of 64 steps.
pub(crate) fn operand_map<'a>(
    gpu: &Gpu,
    op: &'static str,
    view: View<'a>,
    [rows, k]: [usize; 2],
    lines: usize,
    by_k: bool,
) -> Result<TensorMap<'a>> {
    let (dims, strides, boxes) =
        if by_k { ([rows, k], [rows], [64, 64]) } else { ([k, rows], [k], [64, lines.min(128)]) };
    gpu.tensor_map(op, view, Shape { dims: &dims, strides: &strides, boxes: &boxes })
}

/// A product in bf16 by this kernel, which takes tensor maps and a tile of Hopper's: for rungs of the ladder.
///
/// # Errors
/// What such a kernel does not take.
pub(super) fn by_kernel(
    gpu: &Gpu,
    op: &Op,
    kernel: &'static str,
    tile: Tile,
    [a, b]: [View; 2],
    c: ViewMut,
    dims: [usize; 3],
) -> Result<()> {
    launch_sm90(gpu, op, Product { a, b, c, dims, store: Store::Set }, kernel, tile)
}

/// By tensor maps.
fn launch_sm90(gpu: &Gpu, op: &Op, p: Product, kernel: &'static str, tile: Tile) -> Result<()> {
    let ([m, n, k], block) = (p.dims, tile.block());
    let mut args = [
        Arg::Map(operand_map(gpu, op.stem, p.a, [m, k], tile.rows, op.by_k[0])?),
        Arg::Map(operand_map(gpu, op.stem, p.b, [n, k], tile.columns, op.by_k[1])?),
        Arg::Out(p.c),
        Arg::I64(m as i64),
        Arg::I64(n as i64),
        Arg::I64(k as i64),
        Arg::I32((p.store == Store::Add) as i32),
    ];
    let launch = Launch {
        kernel,
        op: op.stem,
        grid: [tile.blocks(m, n) as u32, 1, 1],
        block: [block.threads, 1, 1],
        shared_bytes: block.shared_bytes,
        shape: &format_args!("M={m} N={n} K={k}"),
    };
    begin(gpu, op, &launch, &mut args)
}
