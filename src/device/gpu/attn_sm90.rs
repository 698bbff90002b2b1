//! Launches of attention with Hopper's own instructions, in bf16: a block has 128 rows, two warpgroups of 64 and a third
//! that copies by tensor maps.

use super::attn::Saved;
use super::tensor_map::{Shape, TensorMap};
use super::{Arg, Gpu, Launch};
use crate::device::{View, ViewMut};
use crate::error::Result;
use crate::ops::attn::Heads;

/// Queries or keys of a block.
const TILE: usize = 128;
/// Threads of a block.
const THREADS: u32 = 384;
/// Slots of the ring, two boxes each.
const STAGES: usize = 4;
/// Lines of a box.
const LINES: usize = 64;
/// Queries that attn_bwd_dkv walks at a time.
const QUERIES: usize = 32;

/// Whether these kernels are asked for and take the shape.
pub(super) fn takes(gpu: &Gpu, is_bf16: bool, dim: usize, n: usize) -> bool {
    gpu.hopper() && is_bf16 && [64, 128].contains(&dim) && n > 0
}

/// The map of a tensor [N, heads, D] in boxes of `lines` tokens of one head.
fn map<'a>(gpu: &Gpu, op: &'static str, x: View<'a>, heads: usize, dim: usize, lines: usize) -> Result<TensorMap<'a>> {
    let n = x.len() / (heads * dim);
    let shape = Shape { dims: &[dim, heads, n], strides: &[dim, heads * dim], boxes: &[64, 1, lines] };
    gpu.tensor_map(op, x, shape)
}

/// Tiles at most, whatever the sequences' lengths: see kernels/common/attn.cuh.
fn n_slots(n: usize, cu_seqlens: View) -> u32 {
    (n / TILE + cu_seqlens.len() - 1) as u32
}

/// Shared memory: `boxes` that stay and the ring, up to a multiple of 1024 bytes.
fn shared_bytes(boxes: usize, dim: usize) -> u32 {
    ((boxes + 2 * STAGES) * LINES * dim * 2 + 1024) as u32
}

/// See [`crate::ops::attn::attn_fwd`].
pub(super) fn attn_fwd(
    gpu: &Gpu,
    q: View,
    k: View,
    v: View,
    cu_seqlens: View,
    o: ViewMut,
    lse: ViewMut,
    heads: Heads,
) -> Result<()> {
    let (n, n_seqs, Heads { q: h, kv, dim, scale }) = (lse.len() / heads.q, cu_seqlens.len() - 1, heads);
    let map = |x, heads| map(gpu, "attn_fwd", x, heads, dim, LINES);
    gpu.launch(
        &Launch {
            kernel: if dim == 64 { "attn_fwd_sm90_bf16_d64" } else { "attn_fwd_sm90_bf16_d128" },
            op: "attn_fwd",
            grid: [n_slots(n, cu_seqlens), h as u32, 1],
            block: [THREADS, 1, 1],
            shared_bytes: shared_bytes(2, dim),
            shape: &format_args!("N={n} B={n_seqs} H={h} Hk={kv} D={dim}"),
        },
        &mut [
            Arg::Map(map(q, h)?),
            Arg::Map(map(k, kv)?),
            Arg::Map(map(v, kv)?),
            Arg::In(cu_seqlens),
            Arg::Out(o),
            Arg::Out(lse),
            Arg::I32(n_seqs as i32),
            Arg::I32(h as i32),
            Arg::I32(kv as i32),
            Arg::F32(scale),
        ],
    )
}

pub(super) fn attn_bwd_dq(gpu: &Gpu, s: Saved, dq: ViewMut, heads: Heads) -> Result<()> {
    let (n, n_seqs, Heads { q: h, kv, dim, scale }) = (s.lse.len() / heads.q, s.cu_seqlens.len() - 1, heads);
    let map = |x, heads| map(gpu, "attn_bwd", x, heads, dim, LINES);
    gpu.launch(
        &Launch {
            kernel: if dim == 64 { "attn_bwd_dq_sm90_bf16_d64" } else { "attn_bwd_dq_sm90_bf16_d128" },
            op: "attn_bwd",
            grid: [n_slots(n, s.cu_seqlens), h as u32, 1],
            block: [THREADS, 1, 1],
            shared_bytes: shared_bytes(4, dim),
            shape: &format_args!("N={n} B={n_seqs} H={h} Hk={kv} D={dim}"),
        },
        &mut [
            Arg::Map(map(s.d_o, h)?),
            Arg::Map(map(s.q, h)?),
            Arg::Map(map(s.k, kv)?),
            Arg::Map(map(s.v, kv)?),
            Arg::In(s.d_o),
            Arg::In(s.o),
            Arg::In(s.lse),
            Arg::In(s.cu_seqlens),
            Arg::Out(dq),
            Arg::I32(n_seqs as i32),
            Arg::I32(h as i32),
            Arg::I32(kv as i32),
            Arg::F32(scale),
        ],
    )
}

pub(super) fn attn_bwd_dkv(gpu: &Gpu, s: Saved, dk: ViewMut, dv: ViewMut, heads: Heads) -> Result<()> {
    let (n, n_seqs, Heads { q: h, kv, dim, scale }) = (s.lse.len() / heads.q, s.cu_seqlens.len() - 1, heads);
    let map = |x, heads, lines| map(gpu, "attn_bwd", x, heads, dim, lines);
    gpu.launch(
        &Launch {
            kernel: if dim == 64 { "attn_bwd_dkv_sm90_bf16_d64" } else { "attn_bwd_dkv_sm90_bf16_d128" },
            op: "attn_bwd",
            grid: [n_slots(n, s.cu_seqlens), kv as u32, 1],
            block: [THREADS, 1, 1],
            shared_bytes: shared_bytes(4, dim),
            shape: &format_args!("N={n} B={n_seqs} H={h} Hk={kv} D={dim}"),
        },
        &mut [
            Arg::Map(map(s.d_o, h, QUERIES)?),
            Arg::Map(map(s.q, h, QUERIES)?),
            Arg::Map(map(s.k, kv, LINES)?),
            Arg::Map(map(s.v, kv, LINES)?),
            Arg::In(s.d_o),
            Arg::In(s.o),
            Arg::In(s.lse),
            Arg::In(s.cu_seqlens),
            Arg::Out(dk),
            Arg::Out(dv),
            Arg::I32(n_seqs as i32),
            Arg::I32(h as i32),
            Arg::I32(kv as i32),
            Arg::F32(scale),
        ],
    )
}
