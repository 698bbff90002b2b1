//! The ladder of `attn_fwd` in bf16: from a matrix of scores to wgmma. See [`crate::ops::ladder`].

use super::{CHUNK, Heads, Packed, gpu, gpu_sm90};
use crate::device::gpu::{Arg, Gpu, Launch, holds};
use crate::device::{DType, View, ViewMut};
use crate::error::{Error, Result};
use crate::ops::ladder::Rung;
use crate::ops::want;

/// How a rung is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A warp a query, all scores in memory.
    Scores,
    /// A warp a query, scores in registers.
    Online,
    /// A block of 32 queries that share their keys.
    Tile,
    /// The product's kernels of every card.
    Product,
    /// Hopper's.
    Hopper,
}

/// Warps, each with a query, of a block.
const QUERIES: usize = 4;
/// Threads that share a query of a tile.
const LANES: usize = 8;

/// From the ground up.
pub const RUNGS: [(Rung, How); 5] = [
    (
        Rung::new(
            "lab_attn_v1_scores",
            "lab/attn/v1_scores.cu",
            "a warp a query: all scores, then their softmax, then p v",
        ),
        How::Scores,
    ),
    (
        Rung::new("lab_attn_v2_online", "lab/attn/v2_online.cu", "online softmax: the matrix of scores never exists"),
        How::Online,
    ),
    (
        Rung::new("lab_attn_v3_tile", "lab/attn/v3_tile.cu", "32 queries share a chunk of keys in shared memory"),
        How::Tile,
    ),
    (
        Rung::new(
            "lab_attn_v4_tensor",
            "attn/attn_fwd_bf16.cu",
            "tensor cores, 64 queries a tile, the next chunk under way",
        ),
        How::Product,
    ),
    (
        Rung::hopper(
            "lab_attn_v5_wgmma",
            "attn/attn_fwd_sm90.cu",
            "wgmma, 128 queries: one warpgroup multiplies, one exponentiates",
        ),
        How::Hopper,
    ),
];

/// Bytes that a rung keeps in memory beside its inputs and outputs, of N tokens whose longest sequence has so many.
pub fn scratch_bytes(how: How, n: usize, longest: usize, heads: Heads) -> usize {
    if how == How::Scores { n * heads.q * longest * DType::F32.size() } else { 0 }
}

/// Packed tensors of a forward.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// `[N, H, D]`
    pub q: View<'a>,
    /// `[N, Hk, D]`
    pub k: View<'a>,
    /// `[N, Hk, D]`
    pub v: View<'a>,
    /// Where sequences begin and end `[B + 1]` i32; they share nothing.
    pub cu_seqlens: View<'a>,
    /// Tokens of the longest.
    pub longest: usize,
}

/// `o = softmax(scale q k^T) v` by one rung, causal inside each sequence; o `[N, H, D]` bf16, lse `[N, H]`, `scratch` as
/// [`scratch_bytes`] says, in f32. D is 64 or 128, which all rungs take. Row rule in sequences.
///
/// # Errors
/// [`Error::Shape`] for lengths and heads that do not fit; what the device refuses.
pub fn attn_fwd(gpu: &Gpu, how: How, x: Inputs, [o, lse]: [ViewMut; 2], scratch: ViewMut, heads: Heads) -> Result<()> {
    let (op, n, Heads { q: h, kv, dim, scale }) = ("lab_attn", lse.len() / heads.q, heads);
    heads.check(op)?;
    if ![64, 128].contains(&dim) {
        return Err(Error::Shape { op, rule: "D is 64 or 128", want: 64, got: dim });
    }
    for (rule, got, of) in [("q [N, H, D]", x.q.len(), h), ("o [N, H, D]", o.len(), h)] {
        want(op, rule, got, n * of * dim)?;
    }
    for (rule, got, of) in [("k [N, Hk, D]", x.k.len(), kv), ("v [N, Hk, D]", x.v.len(), kv)] {
        want(op, rule, got, n * of * dim)?;
    }
    want(op, "scratch", scratch.len() * DType::F32.size(), scratch_bytes(how, n, x.longest, heads))?;
    holds(op, DType::Bf16, &[("q", x.q.dtype()), ("k", x.k.dtype()), ("v", x.v.dtype()), ("o", o.dtype())])?;
    let n_seqs = x.cu_seqlens.len().saturating_sub(1);
    let (kernel, blocks, block, shared_bytes) = match how {
        How::Scores => ("lab_attn_v1_scores_bf16", (n + n_seqs).div_ceil(QUERIES), 32 * QUERIES, 0),
        How::Online => ("lab_attn_v2_online_bf16", (n + n_seqs).div_ceil(QUERIES), 32 * QUERIES, 0),
        How::Tile => {
            let bytes = gpu::floats_bytes(3 * CHUNK, dim, CHUNK * (CHUNK + 1));
            ("lab_attn_v3_tile_bf16", n / CHUNK + n_seqs, CHUNK * LANES, bytes)
        }
        How::Product => return gpu::portable(gpu, x.q, x.k, x.v, Packed::apart(x.cu_seqlens), o, lse, heads),
        How::Hopper => return gpu_sm90::attn_fwd(gpu, x.q, x.k, x.v, Packed::apart(x.cu_seqlens), o, lse, heads),
    };
    let launch = Launch {
        kernel,
        op,
        grid: [blocks as u32, h as u32, 1],
        block: [block as u32, 1, 1],
        shared_bytes,
        shape: &format_args!("N={n} B={n_seqs} H={h} Hk={kv} D={dim}"),
    };
    let [n_seqs, h, kv, dim, longest] = [n_seqs, h, kv, dim, x.longest].map(|size| Arg::I32(size as i32));
    let [q, k, v, cu, scale] = [Arg::In(x.q), Arg::In(x.k), Arg::In(x.v), Arg::In(x.cu_seqlens), Arg::F32(scale)];
    let [o, lse] = [Arg::Out(o), Arg::Out(lse)];
    match how {
        How::Scores => {
            let scores = Arg::Out(scratch);
            gpu.launch(&launch, &mut [q, k, v, cu, scores, o, lse, n_seqs, h, kv, dim, longest, scale])
        }
        _ => gpu.launch(&launch, &mut [q, k, v, cu, o, lse, n_seqs, h, kv, dim, scale]),
    }
}
