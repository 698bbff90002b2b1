//! Launches of the products that begin a half of a layer. Which way they go is a matter of speed: bits do not depend on it.
//!
//! Few rows, in decode, are normed by each block again on its way to the product, which saves a launch and h's way through
//! memory; more rows are normed once, by rmsnorm_fwd.

use super::{Normed, Projection, columns};
use crate::device::gpu::launch::MAX_ARGS;
use crate::device::gpu::{Arg, Gpu, Launch, by_dtype};
use crate::device::{DType, View, ViewMut};
use crate::error::{Error, Result};
use crate::ops::gemm::Matrix;
use crate::ops::gemm::gpu::{F32, FEW, operand_map};
use crate::ops::gemm::tiles::{self, Block, Tile};
use crate::ops::norm::gpu::rmsnorm_fwd;

/// Steps of K in a slot of a ring.
const SLOT: usize = 64;
/// Elements between two rows in shared memory in f32, as kernels/common/rows.cuh.
const ROW_LANES: usize = 16;
/// Bytes of normed rows in shared memory at most: so much that blocks still stand side by side on a multiprocessor.
const ROWS_BYTES: usize = 32 * 1024;

/// A kernel: in bf16 of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Its name.
    pub kernel: &'static str,
    /// Whether it norms its rows itself.
    pub normed: bool,
    /// In f32 none.
    pub tile: Option<Tile>,
}

/// A group of products and its kernels.
pub struct Op {
    stem: &'static str,
    /// Whether a tile has half its columns of each of two matrices; else of one of them all.
    pair: bool,
    /// Of normed rows, of given ones. Of equally good tiles the first is taken: of those that norm the larger, which norms less
    /// often, and of one tile that which norms, or reads, rows once for eight blocks.
    f32: [&'static str; 2],
    normed: &'static [(Tile, &'static str)],
    given: &'static [(Tile, &'static str)],
}

/// Queries, keys and values.
pub static QKV: Op = Op {
    stem: "gemm_qkv",
    pair: false,
    f32: ["gemm_qkv_normed_f32", "gemm_qkv_f32"],
    normed: &[
        (tiles::T16X32.side_by_side(), "gemm_qkv_normed_sm90_16x32_bf16"),
        (tiles::T16X32, "gemm_qkv_normed_16x32_bf16"),
        (tiles::T16X8.side_by_side(), "gemm_qkv_normed_sm90_16x8_bf16"),
        (tiles::T16X8, "gemm_qkv_normed_16x8_bf16"),
    ],
    given: &[
        (tiles::SM90_16X32, "gemm_qkv_sm90_16x32_bf16"),
        (tiles::T16X32, "gemm_qkv_16x32_bf16"),
        (tiles::SM90_64X32, "gemm_qkv_sm90_64x32_bf16"),
        (tiles::T64X32, "gemm_qkv_64x32_bf16"),
        (tiles::T64X64, "gemm_qkv_64x64_bf16"),
        (tiles::T128X128, "gemm_qkv_128x128_bf16"),
        (tiles::SM90_128X128, "gemm_qkv_sm90_128x128_bf16"),
        (tiles::SM90_128X256, "gemm_qkv_sm90_128x256_bf16"),
    ],
};

/// Gate and up.
pub static SWIGLU: Op = Op {
    stem: "gemm_swiglu",
    pair: true,
    f32: ["gemm_swiglu_normed_f32", "gemm_swiglu_f32"],
    normed: &[
        (tiles::T16X64.side_by_side(), "gemm_swiglu_normed_sm90_16x64_bf16"),
        (tiles::T16X64, "gemm_swiglu_normed_16x64_bf16"),
        (tiles::T16X16.side_by_side(), "gemm_swiglu_normed_sm90_16x16_bf16"),
        (tiles::T16X16, "gemm_swiglu_normed_16x16_bf16"),
    ],
    given: &[
        (tiles::SM90_16X64, "gemm_swiglu_sm90_16x64_bf16"),
        (tiles::T16X64, "gemm_swiglu_16x64_bf16"),
        (tiles::SM90_64X64, "gemm_swiglu_sm90_64x64_bf16"),
        (tiles::T64X32, "gemm_swiglu_64x32_bf16"),
        (tiles::T64X64, "gemm_swiglu_64x64_bf16"),
        (tiles::T128X128, "gemm_swiglu_128x128_bf16"),
        (tiles::SM90_128X256, "gemm_swiglu_sm90_128x256_bf16"),
    ],
};

impl Op {
    /// Its kernels on a device that has Hopper's instructions, or not.
    pub fn ways(&self, dtype: DType, hopper: bool) -> Vec<Way> {
        self.each(dtype, hopper).collect()
    }

    fn each(&self, dtype: DType, hopper: bool) -> impl Iterator<Item = Way> {
        let is_f32 = dtype == DType::F32;
        let f32 = self.f32.into_iter().zip([true, false]).filter(move |_| is_f32);
        let f32 = f32.map(|(kernel, normed)| Way { kernel, normed, tile: None });
        let tiles = [(self.normed, true), (self.given, false)].into_iter().filter(move |_| !is_f32);
        let bf16 = tiles.flat_map(|(tiles, normed)| tiles.iter().map(move |(tile, kernel)| (*tile, *kernel, normed)));
        let bf16 = bf16.filter(move |(tile, ..)| hopper || !tile.needs_hopper());
        f32.chain(bf16.map(|(tile, kernel, normed)| Way { kernel, normed, tile: Some(tile) }))
    }

    /// The way by which products of N columns in all are done first: of those that norm rows on the way, or of the others.
    pub fn way(&self, dtype: DType, normed: bool, dims: [usize; 3], hopper: bool, sms: usize) -> Option<Way> {
        let fits = |way: &Way| way.normed == normed && way.tile.is_none_or(|tile| tile.suits(dims[0], hopper));
        let cycles = |way: &Way| way.tile.map_or(0.0, |tile| tile.cycles(dims, sms));
        self.each(dtype, hopper).filter(fits).min_by(|a, b| cycles(a).total_cmp(&cycles(b)))
    }
}

/// Whether rows are normed on the way: few, of which nobody needs h, and which leave room in shared memory.
fn on_the_way(rows: &Normed, [m, k]: [usize; 2]) -> bool {
    !rows.keep && m <= FEW && rows_bytes([m, k]) <= ROWS_BYTES
}

/// Bytes in bf16 of the rows of one tile of 16, up to whole slots.
fn rows_bytes([m, k]: [usize; 2]) -> usize {
    2 * m.min(FEW) * k.next_multiple_of(SLOT)
}

/// One call of an op: W weights, O tensors that its kernels read or write besides, D sizes as they take them, M first, K last.
struct Products<'a, const W: usize, const O: usize, const D: usize> {
    rows: Normed<'a>,
    weights: [View<'a>; W],
    /// Columns of each product.
    columns: [usize; W],
    others: [Arg<'a>; O],
    dims: [usize; D],
}

/// See [`super::gemm_qkv`], by the way that is done first, or by this one: bits do not depend on it.
///
/// # Errors
/// What the op refuses.
pub fn gemm_qkv(gpu: &Gpu, rows: Normed, parts: [Projection; 3], way: Option<Way>) -> Result<()> {
    let (m, k) = (rows.rstd.len(), rows.weight.len());
    let [n_q, n_kv] = [0, 1].map(|i: usize| columns(parts[i].weight, k));
    let mut dtypes = [rows.x.dtype(); 9];
    for (i, part) in parts.iter().enumerate() {
        let bias = part.bias.map_or(dtypes[0], |bias| bias.dtype());
        (dtypes[3 * i], dtypes[3 * i + 1], dtypes[3 * i + 2]) = (part.weight.rows.dtype(), bias, part.to.dtype());
    }
    by_dtype(QKV.stem, &[rows.x.dtype(), by_dtype(QKV.stem, &dtypes)?])?;
    let (weights, dims) = (parts.each_ref().map(|part| part.weight.rows), [m, n_q, n_kv, k]);
    let [bq, bk, bv] = parts.each_ref().map(|part| part.bias.map_or(Arg::Null, Arg::In));
    let [q, k, v] = parts.map(|part| Arg::Out(part.to));
    let others = [bq, bk, bv, q, k, v];
    run(gpu, &QKV, Products { rows, weights, columns: [n_q, n_kv, n_kv], others, dims }, way)
}

/// See [`super::gemm_swiglu`], by the way that is done first, or by this one: bits do not depend on it.
///
/// # Errors
/// What the op refuses.
pub fn gemm_swiglu(
    gpu: &Gpu,
    rows: Normed,
    weights: [Matrix; 2],
    [gate, up]: [ViewMut; 2],
    s: ViewMut,
    way: Option<Way>,
) -> Result<()> {
    let (m, k, n) = (rows.rstd.len(), rows.weight.len(), columns(weights[0], rows.weight.len()));
    let weights = weights.map(|w| w.rows);
    let [wg, wu] = weights.map(|w| w.dtype());
    by_dtype(SWIGLU.stem, &[rows.x.dtype(), wg, wu, gate.dtype(), up.dtype(), s.dtype()])?;
    let [gate, up] = [gate, up].map(|to| if rows.keep { Arg::Out(to) } else { Arg::Null });
    let dims = [m, n, k];
    run(gpu, &SWIGLU, Products { rows, weights, columns: [n; 2], others: [gate, up, Arg::Out(s)], dims }, way)
}

fn run<const W: usize, const O: usize, const D: usize>(
    gpu: &Gpu,
    op: &Op,
    p: Products<W, O, D>,
    way: Option<Way>,
) -> Result<()> {
    let (m, k, n) = (p.dims[0], p.dims[D - 1], p.columns.iter().sum::<usize>());
    let normed = on_the_way(&p.rows, [m, k]);
    let Normed { x, weight, eps, mut h, rstd, .. } = p.rows;
    by_dtype(op.stem, &[x.dtype(), weight.dtype(), h.dtype()])?;
    if k > i32::MAX as usize {
        return Err(Error::Shape { op: op.stem, rule: "K is below 2^31", want: i32::MAX as usize, got: k });
    }
    // Lines of whole 16-byte vectors, in buffers that start on one.
    let vectors = k.is_multiple_of(8) && [x, weight, h.view()].iter().chain(&p.weights).all(|x| aligned(*x));
    let hopper = gpu.hopper() && vectors && n > 0 && k > 0;
    let chosen = || op.way(x.dtype(), normed, [m, n, k], hopper, gpu.multiprocessors());
    let Some(way) = way.or_else(chosen) else { return gpu.no_kernel(op.stem) };
    if !way.normed {
        rmsnorm_fwd(gpu, x, weight, h.reborrow(), rstd, eps)?;
    }
    let mut args = Args::none();
    match way {
        Way { normed: true, .. } => args.extend([x, weight].into_iter().chain(p.weights).map(Arg::In)),
        Way { tile: Some(tile), .. } if tile.by_maps() => {
            args.extend([Arg::Map(operand_map(gpu, op.stem, h.view(), [m, k], tile.rows, false)?)]);
            for (w, n) in p.weights.into_iter().zip(p.columns) {
                args.extend([Arg::Map(operand_map(gpu, op.stem, w, [n, k], op.columns(tile), false)?)]);
            }
        }
        _ => args.extend([h.view()].into_iter().chain(p.weights).map(Arg::In)),
    }
    args.extend(p.others);
    args.extend(p.dims.map(|dim| Arg::I64(dim as i64)));
    args.extend(way.normed.then_some(Arg::F32(eps)));
    args.extend(way.takes_vectors().then_some(Arg::I32(vectors as i32)));
    let (block, across) = (way.block([m, k]), op.across(way, &p.columns));
    let down = m.div_ceil(block.rows);
    let launch = Launch {
        kernel: way.kernel,
        op: op.stem,
        grid: match way.tile {
            Some(tile) => [tile.blocks_of(down, across) as u32, 1, 1],
            None => [down as u32, across as u32, 1],
        },
        block: [block.threads, 1, 1],
        shared_bytes: block.shared_bytes,
        shape: &format_args!("M={m} N={n} K={k}"),
    };
    gpu.launch_dependent(&launch, args.all())
}

impl Way {
    /// Kernels whose lines may not be whole vectors.
    fn takes_vectors(&self) -> bool {
        self.tile.is_some_and(|tile| !tile.by_maps())
    }

    /// What a launch sees of it: the rows that stand in shared memory are none of the ring's.
    fn block(&self, [m, k]: [usize; 2]) -> Block {
        let ring = |tile: Tile| 2 * SLOT * tile.slots * tile.columns;
        let (block, rows) = match self.tile {
            Some(tile) => (tile.block(), ring(tile) + rows_bytes([m, k])),
            None => (F32[self.normed as usize], 4 * m.min(FEW) * (k + ROW_LANES)),
        };
        if self.normed { Block { shared_bytes: rows as u32, ..block } } else { block }
    }
}

impl Op {
    /// Columns of one matrix that a tile has.
    fn columns(&self, tile: Tile) -> usize {
        if self.pair { tile.columns / 2 } else { tile.columns }
    }

    /// Tiles of a row of tiles.
    fn across(&self, way: Way, columns: &[usize]) -> usize {
        let wide = way.tile.map_or(F32[way.normed as usize].columns, |tile| self.columns(tile));
        let all = columns.iter().map(|n| n.div_ceil(wide)).sum();
        if self.pair { all / 2 } else { all }
    }
}

/// Parameters of a launch, one after another.
struct Args<'a> {
    args: [Arg<'a>; MAX_ARGS],
    len: usize,
}

impl<'a> Args<'a> {
    fn none() -> Args<'a> {
        Args { args: [const { Arg::Null }; MAX_ARGS], len: 0 }
    }

    fn extend(&mut self, more: impl IntoIterator<Item = Arg<'a>>) {
        for arg in more {
            self.args[self.len] = arg;
            self.len += 1;
        }
    }

    fn all(&mut self) -> &mut [Arg<'a>] {
        &mut self.args[..self.len]
    }
}

/// Whether it starts on a vector.
fn aligned(x: View) -> bool {
    (x.address() as usize).is_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    /// Products of Qwen3-0.6B, and one of 8B: whose, M, columns in all, K, and the kernels they get without and with Hopper's instructions.
    const CHOICES: [(&Op, bool, [usize; 3], [&str; 2]); 10] = [
        (&QKV, true, [1, 4096, 1024], ["gemm_qkv_normed_16x32_bf16"; 2]),
        (&QKV, true, [16, 4096, 1024], ["gemm_qkv_normed_16x32_bf16", "gemm_qkv_normed_sm90_16x32_bf16"]),
        (&QKV, false, [16, 6144, 4096], ["gemm_qkv_16x32_bf16", "gemm_qkv_sm90_16x32_bf16"]),
        (&QKV, false, [64, 4096, 1024], ["gemm_qkv_64x64_bf16", "gemm_qkv_sm90_64x32_bf16"]),
        (&QKV, false, [16384, 4096, 1024], ["gemm_qkv_128x128_bf16", "gemm_qkv_sm90_128x256_bf16"]),
        (&SWIGLU, true, [1, 6144, 1024], ["gemm_swiglu_normed_16x64_bf16"; 2]),
        (&SWIGLU, true, [4, 6144, 1024], ["gemm_swiglu_normed_16x64_bf16", "gemm_swiglu_normed_sm90_16x64_bf16"]),
        (&SWIGLU, false, [64, 6144, 1024], ["gemm_swiglu_64x64_bf16", "gemm_swiglu_sm90_64x64_bf16"]),
        (&SWIGLU, false, [64, 24576, 4096], ["gemm_swiglu_64x64_bf16", "gemm_swiglu_sm90_64x64_bf16"]),
        (&SWIGLU, false, [16384, 6144, 1024], ["gemm_swiglu_128x128_bf16", "gemm_swiglu_sm90_128x256_bf16"]),
    ];

    #[test]
    fn named_products_get_these_kernels() {
        for (op, normed, dims, want) in CHOICES {
            for (hopper, want) in [(false, want[0]), (true, want[1])] {
                let got = op.way(DType::Bf16, normed, dims, hopper, 132).unwrap();
                assert_eq!(got.kernel, want, "{dims:?}");
            }
        }
    }

    #[test]
    fn rows_are_normed_on_the_way_where_they_are_few_and_narrow_and_nobody_needs_them() {
        let dev = Device::open("cpu", 1).unwrap();
        let (mut h, mut rstd) = (dev.zeros(DType::F32, 0).unwrap(), dev.zeros(DType::F32, 0).unwrap());
        let x = dev.zeros(DType::F32, 0).unwrap();
        let mut on = |m, k, keep| {
            let (h, rstd) = (h.view_mut(), rstd.view_mut());
            on_the_way(&Normed { x: x.view(), weight: x.view(), eps: 0.0, h, rstd, keep }, [m, k])
        };
        assert!(on(1, 1024, false) && on(16, 1024, false) && on(4, 4096, false) && on(1, 16384, false));
        assert!(!on(17, 64, false) && !on(16, 1025, false) && !on(5, 4096, false) && !on(1, 1024, true));
    }
}
