//! Launches of attention with Hopper's own instructions, in bf16: a block has 128 rows, two warpgroups of 64 and a third
//! that copies by tensor maps.

use crate::device::gpu::launch::MAX_ARGS;
use crate::device::gpu::tensor_map::{Shape, TensorMap};
use crate::device::gpu::{Arg, Gpu, Launch};
use crate::device::{View, ViewMut};
use crate::error::Result;
use crate::ops::attn::{Heads, Packed};

/// What both kernels of attn_bwd read.
#[derive(Clone, Copy)]
pub(crate) struct Saved<'a> {
    pub(crate) d_o: View<'a>,
    pub(crate) q: View<'a>,
    pub(crate) k: View<'a>,
    pub(crate) v: View<'a>,
    pub(crate) o: View<'a>,
    pub(crate) lse: View<'a>,
    pub(crate) seqs: Packed<'a>,
}

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

/// Whether these kernels are asked for and take the shape. Their boxes are rows that stand together, so batches that share
/// prefixes go to the portable kernels, which in the forward give the same bits.
pub(crate) fn takes(gpu: &Gpu, is_bf16: bool, dim: usize, n: usize, seqs: Packed) -> bool {
    gpu.hopper() && is_bf16 && [64, 128].contains(&dim) && n > 0 && seqs.prefixes.is_none()
}

/// The map of a tensor [N, heads, D] in boxes of `lines` tokens of one head.
fn map<'a>(gpu: &Gpu, op: &'static str, x: View<'a>, heads: usize, dim: usize, lines: usize) -> Result<TensorMap<'a>> {
    let n = x.len() / (heads * dim);
    let shape = Shape { dims: &[dim, heads, n], strides: &[dim, heads * dim], boxes: &[64, 1, lines] };
    gpu.tensor_map(op, x, shape)
}

/// What differs between the launches.
struct Kernel {
    op: &'static str,
    /// For 64 and 128 dims a head.
    names: [&'static str; 2],
    /// Heads that blocks are for: of queries, or of keys.
    blocks_y: usize,
    /// Boxes in shared memory that stay, beside the ring.
    boxes: usize,
}

/// A block for each tile, of which there are at most so many whatever the sequences' lengths (kernels/common/attn.cuh), and
/// head; all kernels end with the same numbers.
fn launch<const N: usize>(
    gpu: &Gpu,
    kernel: Kernel,
    tensors: [Arg; N],
    n: usize,
    n_seqs: usize,
    heads: Heads,
) -> Result<()> {
    let Heads { q: h, kv, dim, scale } = heads;
    let launch = Launch {
        kernel: kernel.names[(dim == 128) as usize],
        op: kernel.op,
        grid: [(n / TILE + n_seqs) as u32, kernel.blocks_y as u32, 1],
        block: [THREADS, 1, 1],
        // Up to a multiple of 1024 bytes.
        shared_bytes: ((kernel.boxes + 2 * STAGES) * LINES * dim * 2 + 1024) as u32,
        shape: &format_args!("N={n} B={n_seqs} H={h} Hk={kv} D={dim}"),
    };
    let mut args = [const { Arg::Null }; MAX_ARGS];
    let numbers = [Arg::I32(n_seqs as i32), Arg::I32(h as i32), Arg::I32(kv as i32), Arg::F32(scale)];
    let n_args = N + numbers.len();
    args.iter_mut().zip(tensors.into_iter().chain(numbers)).for_each(|(to, arg)| *to = arg);
    gpu.launch(&launch, &mut args[..n_args])
}

/// See [`crate::ops::attn::attn_fwd`].
pub(crate) fn attn_fwd(
    gpu: &Gpu,
    q: View,
    k: View,
    v: View,
    seqs: Packed,
    o: ViewMut,
    lse: ViewMut,
    heads: Heads,
) -> Result<()> {
    let (n, n_seqs) = (lse.len() / heads.q, seqs.len());
    let map = |x, of| map(gpu, "attn_fwd", x, of, heads.dim, LINES).map(Arg::Map);
    let names = ["attn_fwd_sm90_bf16_d64", "attn_fwd_sm90_bf16_d128"];
    let kernel = Kernel { op: "attn_fwd", names, blocks_y: heads.q, boxes: 2 };
    let tensors =
        [map(q, heads.q)?, map(k, heads.kv)?, map(v, heads.kv)?, Arg::In(seqs.cu_seqlens), Arg::Out(o), Arg::Out(lse)];
    launch(gpu, kernel, tensors, n, n_seqs, heads)
}

/// See [`crate::ops::attn::attn_bwd`]: dq.
pub(crate) fn attn_bwd_dq(gpu: &Gpu, s: Saved, dq: ViewMut, heads: Heads) -> Result<()> {
    let names = ["attn_bwd_dq_sm90_bf16_d64", "attn_bwd_dq_sm90_bf16_d128"];
    let kernel = Kernel { op: "attn_bwd", names, blocks_y: heads.q, boxes: 4 };
    let [d_o, q, k, v] = maps(gpu, s, heads, LINES)?;
    let (cu, n, n_seqs) = (Arg::In(s.seqs.cu_seqlens), s.lse.len() / heads.q, s.seqs.len());
    let tensors = [d_o, q, k, v, Arg::In(s.d_o), Arg::In(s.o), Arg::In(s.lse), cu, Arg::Out(dq)];
    launch(gpu, kernel, tensors, n, n_seqs, heads)
}

/// See [`crate::ops::attn::attn_bwd`]: dk and dv.
pub(crate) fn attn_bwd_dkv(gpu: &Gpu, s: Saved, dk: ViewMut, dv: ViewMut, heads: Heads) -> Result<()> {
    let names = ["attn_bwd_dkv_sm90_bf16_d64", "attn_bwd_dkv_sm90_bf16_d128"];
    let kernel = Kernel { op: "attn_bwd", names, blocks_y: heads.kv, boxes: 4 };
    let [d_o, q, k, v] = maps(gpu, s, heads, QUERIES)?;
    let (cu, n, n_seqs) = (Arg::In(s.seqs.cu_seqlens), s.lse.len() / heads.q, s.seqs.len());
    let tensors = [d_o, q, k, v, Arg::In(s.d_o), Arg::In(s.o), Arg::In(s.lse), cu, Arg::Out(dk), Arg::Out(dv)];
    launch(gpu, kernel, tensors, n, n_seqs, heads)
}

/// do and q in boxes of `lines` tokens, k and v.
fn maps<'a>(gpu: &Gpu, s: Saved<'a>, heads: Heads, lines: usize) -> Result<[Arg<'a>; 4]> {
    let map = |x, of, lines| map(gpu, "attn_bwd", x, of, heads.dim, lines).map(Arg::Map);
    Ok([map(s.d_o, heads.q, lines)?, map(s.q, heads.q, lines)?, map(s.k, heads.kv, LINES)?, map(s.v, heads.kv, LINES)?])
}
