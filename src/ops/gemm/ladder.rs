//! The ladder of `gemm_nt` in bf16: from a thread an element to the copy engine and wgmma. See [`crate::ops::ladder`].

use super::gpu::{NT, by_kernel, by_tile};
use super::tiles::{SM90_128X256, T64X64, T128X128, Tile};
use super::{Store, want};
use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, holds};
use crate::device::{DType, View, ViewMut};
use crate::error::{Error, Result};
use crate::ops::ladder::Rung;

/// How a rung is launched.
#[derive(Debug, Clone, Copy)]
pub enum How {
    /// A thread an element.
    Naive,
    /// A kernel of `kernels/lab/gemm/` whose blocks have a square of c.
    Lab(Lab),
    /// The same by tensor maps, of this tile.
    Maps(&'static str, Tile),
    /// A tile of the product's.
    Product(Tile),
}

/// What a launch sees of such a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Lab {
    kernel: &'static str,
    /// Rows and columns of a block.
    tile: usize,
    block: [u32; 3],
    shared_bytes: u32,
    /// Elements that K is a multiple of: what a thread loads at once.
    vector: usize,
}

/// A tile on tensor cores: 64 x 64 by four warps, a slot of 64 steps of both operands.
const fn tensor(kernel: &'static str) -> How {
    How::Lab(Lab { kernel, tile: 64, block: [128, 1, 1], shared_bytes: 2 * 64 * 64 * 2, vector: 8 })
}

/// Hopper's tile, each block a cluster of its own.
const ALONE: Tile = Tile { cluster: [1, 1], ..SM90_128X256 };

const SHARED: Lab = Lab { kernel: "lab_gemm_v2_shared_bf16", tile: 32, block: [32, 32, 1], shared_bytes: 0, vector: 1 };

/// From the ground up.
pub const RUNGS: [(Rung, How); 8] = [
    (
        Rung::new("lab_gemm_v1_naive", "lab/gemm/v1_naive.cu", "a thread an element, read from wherever it lies"),
        How::Naive,
    ),
    (
        Rung::new(
            "lab_gemm_v2_shared",
            "lab/gemm/v2_shared.cu",
            "tiles in shared memory: read once a tile, by neighbours",
        ),
        How::Lab(SHARED),
    ),
    (
        Rung::new("lab_gemm_v3_tensor", "lab/gemm/v3_tensor.cu", "tensor cores: one mma.sync is 2048 multiply-adds"),
        tensor("lab_gemm_v3_tensor_bf16"),
    ),
    (
        Rung::new(
            "lab_gemm_v4_swizzled",
            "lab/gemm/v4_swizzled.cu",
            "chunks swizzled over the banks, read by ldmatrix",
        ),
        tensor("lab_gemm_v4_swizzled_bf16"),
    ),
    (
        Rung::new(
            "lab_gemm_v5_ring",
            "gemm/gemm_nt.cu",
            "a ring of slots: the next steps are under way while these multiply",
        ),
        How::Product(T64X64),
    ),
    (
        Rung::new("lab_gemm_v6_wide", "gemm/gemm_nt.cu", "a tile four times as large: half the reads, twice the reuse"),
        How::Product(T128X128),
    ),
    (
        Rung::hopper(
            "lab_gemm_v7_wgmma",
            "lab/gemm/v7_wgmma_sm90.cu",
            "a thread asks the copy engine, warpgroups multiply from shared memory",
        ),
        How::Maps("lab_gemm_v7_wgmma_sm90_bf16", ALONE),
    ),
    (
        Rung::hopper(
            "lab_gemm_v8_cluster",
            "gemm/gemm_nt_sm90.cu",
            "two blocks bring the columns that both multiply: each half of them, to both",
        ),
        How::Product(SM90_128X256),
    ),
];

/// `c = a b^T` by one rung; a `[M, K]`, b `[N, K]`, c `[M, N]`, all bf16. Row rule in M.
///
/// # Errors
/// [`Error::Shape`] for lengths that do not fit and, above v2, a K that is no multiple of 8; what the device refuses.
pub fn gemm_nt(gpu: &Gpu, how: &How, [a, b]: [View; 2], c: ViewMut, dims: [usize; 3]) -> Result<()> {
    let op = "lab_gemm";
    match how {
        How::Naive => gemm_nt_naive(gpu, a, b, c, dims),
        How::Maps(kernel, tile) => {
            lengths(op, [a, b], &c, dims)?;
            holds(op, DType::Bf16, &[("a", a.dtype()), ("b", b.dtype()), ("c", c.dtype())])?;
            by_kernel(gpu, &NT, kernel, *tile, [a, b], c, dims)
        }
        How::Product(tile) => by_tile(gpu, &NT, *tile, [a, b], c, dims, Store::Set),
        How::Lab(lab) => {
            lengths(op, [a, b], &c, dims)?;
            holds(op, DType::Bf16, &[("a", a.dtype()), ("b", b.dtype()), ("c", c.dtype())])?;
            want(op, "K is whole vectors", dims[2] % lab.vector, 0)?;
            let starts = (a.address() as usize | b.address() as usize) % (2 * lab.vector);
            want(op, "a and b start on a vector", starts, 0)?;
            launch(gpu, lab, [a, b], c, dims)
        }
    }
}

/// The first rung, which benchmarks hold [`super::gemm_nt`] against. All f32 or all bf16, any shape.
///
/// # Errors
/// As there.
pub fn gemm_nt_naive(gpu: &Gpu, a: View, b: View, c: ViewMut, dims: [usize; 3]) -> Result<()> {
    lengths("lab_gemm", [a, b], &c, dims)?;
    let is_f32 = by_dtype("lab_gemm", &[a.dtype(), b.dtype(), c.dtype()])? == DType::F32;
    let kernel = if is_f32 { "lab_gemm_v1_naive_f32" } else { "lab_gemm_v1_naive_bf16" };
    launch(gpu, &Lab { kernel, tile: 16, block: [16, 16, 1], shared_bytes: 0, vector: 1 }, [a, b], c, dims)
}

fn lengths(op: &'static str, [a, b]: [View; 2], c: &ViewMut, [m, n, k]: [usize; 3]) -> Result<()> {
    for (got, want) in [(a.len(), m * k), (b.len(), n * k), (c.len(), m * n)] {
        if got != want {
            return Err(Error::Shape { op, rule: "a [M, K], b [N, K], c [M, N]", want, got });
        }
    }
    Ok(())
}

fn launch(gpu: &Gpu, lab: &Lab, [a, b]: [View; 2], c: ViewMut, [m, n, k]: [usize; 3]) -> Result<()> {
    let launch = Launch {
        kernel: lab.kernel,
        op: "lab_gemm",
        grid: [n.div_ceil(lab.tile) as u32, m.div_ceil(lab.tile) as u32, 1],
        block: lab.block,
        shared_bytes: lab.shared_bytes,
        shape: &format_args!("M={m} N={n} K={k}"),
    };
    let [m, n, k] = [m, n, k].map(|dim| Arg::I64(dim as i64));
    gpu.launch(&launch, &mut [Arg::In(a), Arg::In(b), Arg::Out(c), m, n, k])
}
