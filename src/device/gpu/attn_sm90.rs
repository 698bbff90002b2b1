//! Launches of attention with Hopper's own instructions, in bf16: a block has 128 rows, two warpgroups of 64 and a third
//! that copies by tensor maps.

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
