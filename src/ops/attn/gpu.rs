//! Launches of attention over packed sequences. f32 takes any head dim up to 256, bf16 32, 64 and 128.

use super::gpu_sm90::{self, Saved};
use crate::device::gpu::{Arg, Gpu, Launch, by_dtype};
use crate::device::{DType, View, ViewMut};
use crate::error::{Error, Result};
use crate::ops::attn::{CHUNK, Heads, Packed};

/// Threads that share a query or a key of the f32 kernels.
const LANES: u32 = 8;
/// Queries or keys of a tile in bf16.
const TILE: usize = 64;
/// Threads of a block in bf16.
pub(crate) const THREADS: u32 = 128;
/// Head dims in bf16.
const BF16_DIMS: [usize; 3] = [32, 64, 128];

/// The kernels of one op: f32 for a head dim up to 32, 64, 128, 256, bf16 by [`BF16_DIMS`].
pub(crate) struct Kernels {
    pub f32: [&'static str; 4],
    pub bf16: [&'static str; 3],
}

/// One of the kernels, and whether it is of the bf16 ones.
pub(crate) fn pick(op: &'static str, dtypes: &[DType], dim: usize, kernels: Kernels) -> Result<(&'static str, bool)> {
    if by_dtype(op, dtypes)? == DType::F32 {
        return Ok((kernels.f32[[32, 64, 128].iter().take_while(|most| dim > **most).count()], false));
    }
    match BF16_DIMS.iter().position(|d| *d == dim) {
        Some(i) => Ok((kernels.bf16[i], true)),
        None => Err(Error::Shape { op, rule: "D in bf16 is 32, 64 or 128", want: 128, got: dim }),
    }
}

/// `Ok` when 16-byte vectors of these tensors may be read and written, as the bf16 kernels do.
pub(crate) fn aligned(op: &'static str, is_bf16: bool, tensors: &[View]) -> Result<()> {
    let tensors = if is_bf16 { tensors } else { &[] };
    let off = tensors.iter().map(|t| t.address() as usize % 16).max().unwrap_or(0);
    if off == 0 { Ok(()) } else { Err(Error::Shape { op, rule: "tensors start on 16 bytes", want: 0, got: off }) }
}

/// Floats between the rows of a chunk's probabilities; `P_STRIDE` of common/attn_f32.cuh.
pub(super) const P_STRIDE: usize = CHUNK + 8;

/// Bytes of `rows` rows of D floats an odd number of floats apart, and `more` floats.
pub(super) fn floats_bytes(rows: usize, dim: usize, more: usize) -> u32 {
    ((rows * (dim | 1) + more) * size_of::<f32>()) as u32
}

/// Bytes of `rows` rows of D bf16, and `more` floats.
pub(super) fn halves_bytes(rows: usize, dim: usize, more: usize) -> u32 {
    (rows * dim * 2 + more * size_of::<f32>()) as u32
}

/// Tiles at most, whatever the sequences' lengths: see kernels/common/attn.cuh.
fn n_slots(n: usize, seqs: Packed, is_bf16: bool) -> u32 {
    (n / if is_bf16 { TILE } else { CHUNK } + seqs.len()) as u32
}

/// What the sequences begin with, or null.
fn prefixes(seqs: Packed<'_>) -> Arg<'_> {
    seqs.prefixes.map_or(Arg::Null, Arg::In)
}

/// Threads of a block over tiles.
fn threads(is_bf16: bool) -> u32 {
    if is_bf16 { THREADS } else { CHUNK as u32 * LANES }
}

/// See [`crate::ops::attn::attn_fwd`].
pub fn attn_fwd(
    gpu: &Gpu,
    q: View,
    k: View,
    v: View,
    seqs: Packed,
    o: ViewMut,
    lse: ViewMut,
    heads: Heads,
) -> Result<()> {
    let dtypes = [q.dtype(), k.dtype(), v.dtype(), o.dtype()];
    let is_bf16 = by_dtype("attn_fwd", &dtypes)? == DType::Bf16;
    if gpu_sm90::takes(gpu, is_bf16, heads.dim, lse.len() / heads.q, seqs) {
        aligned("attn_fwd", is_bf16, &[q, k, v, o.view()])?;
        return gpu_sm90::attn_fwd(gpu, q, k, v, seqs, o, lse, heads);
    }
    portable(gpu, q, k, v, seqs, o, lse, heads)
}

/// The same by the kernels of every card.
pub(super) fn portable(
    gpu: &Gpu,
    q: View,
    k: View,
    v: View,
    seqs: Packed,
    o: ViewMut,
    lse: ViewMut,
    heads: Heads,
) -> Result<()> {
    let (n, n_seqs, Heads { q: h, kv, dim, scale }) = (lse.len() / heads.q, seqs.len(), heads);
    let kernels = Kernels {
        f32: ["attn_fwd_f32_d32", "attn_fwd_f32_d64", "attn_fwd_f32_d128", "attn_fwd_f32_d256"],
        bf16: ["attn_fwd_bf16_d32", "attn_fwd_bf16_d64", "attn_fwd_bf16_d128"],
    };
    let (kernel, is_bf16) = pick("attn_fwd", &[q.dtype(), k.dtype(), v.dtype(), o.dtype()], dim, kernels)?;
    aligned("attn_fwd", is_bf16, &[q, k, v, o.view()])?;
    let f32_bytes = floats_bytes(3 * CHUNK, dim, CHUNK * P_STRIDE);
    gpu.launch(
        &Launch {
            kernel,
            op: "attn_fwd",
            grid: [n_slots(n, seqs, is_bf16), h as u32, 1],
            block: [threads(is_bf16), 1, 1],
            shared_bytes: if is_bf16 { halves_bytes(TILE + 4 * CHUNK, dim, 0) } else { f32_bytes },
            shape: &format_args!("N={n} B={n_seqs} H={h} Hk={kv} D={dim}"),
        },
        &mut [
            Arg::In(q),
            Arg::In(k),
            Arg::In(v),
            Arg::In(seqs.cu_seqlens),
            prefixes(seqs),
            Arg::Out(o),
            Arg::Out(lse),
            Arg::I32(n_seqs as i32),
            Arg::I32(h as i32),
            Arg::I32(kv as i32),
            Arg::I32(dim as i32),
            Arg::F32(scale),
        ],
    )
}

/// See [`crate::ops::attn::attn_bwd`]: dq by tiles of queries, dk and dv by chunks of keys.
pub fn attn_bwd(
    gpu: &Gpu,
    d_o: View,
    q: View,
    k: View,
    v: View,
    o: View,
    lse: View,
    seqs: Packed,
    dq: ViewMut,
    dk: ViewMut,
    dv: ViewMut,
    heads: Heads,
) -> Result<()> {
    let dtypes = [d_o.dtype(), q.dtype(), k.dtype(), v.dtype(), o.dtype(), dq.dtype(), dk.dtype(), dv.dtype()];
    let is_bf16 = by_dtype("attn_bwd", &dtypes)? == DType::Bf16;
    aligned("attn_bwd", is_bf16, &[d_o, q, k, v, o, dq.view(), dk.view(), dv.view()])?;
    let saved = Saved { d_o, q, k, v, o, lse, seqs };
    if gpu_sm90::takes(gpu, is_bf16, heads.dim, lse.len() / heads.q, seqs) {
        gpu_sm90::attn_bwd_dq(gpu, saved, dq, heads)?;
        return gpu_sm90::attn_bwd_dkv(gpu, saved, dk, dv, heads);
    }
    attn_bwd_dq(gpu, saved, dq, heads)?;
    attn_bwd_dkv(gpu, saved, dk, dv, heads)
}

fn attn_bwd_dq(gpu: &Gpu, s: Saved, dq: ViewMut, heads: Heads) -> Result<()> {
    let (n, n_seqs, Heads { q: h, kv, dim, scale }) = (s.lse.len() / heads.q, s.seqs.len(), heads);
    let kernels = Kernels {
        f32: ["attn_bwd_dq_f32_d32", "attn_bwd_dq_f32_d64", "attn_bwd_dq_f32_d128", "attn_bwd_dq_f32_d256"],
        bf16: ["attn_bwd_dq_bf16_d32", "attn_bwd_dq_bf16_d64", "attn_bwd_dq_bf16_d128"],
    };
    let (kernel, is_bf16) = pick("attn_bwd", &[s.q.dtype()], dim, kernels)?;
    let f32_bytes = floats_bytes(4 * CHUNK, dim, CHUNK * P_STRIDE);
    gpu.launch(
        &Launch {
            kernel,
            op: "attn_bwd",
            grid: [n_slots(n, s.seqs, is_bf16), h as u32, 1],
            block: [threads(is_bf16), 1, 1],
            shared_bytes: if is_bf16 { halves_bytes(2 * TILE + 4 * CHUNK, dim, 0) } else { f32_bytes },
            shape: &format_args!("N={n} B={n_seqs} H={h} Hk={kv} D={dim}"),
        },
        &mut [
            Arg::In(s.d_o),
            Arg::In(s.q),
            Arg::In(s.k),
            Arg::In(s.v),
            Arg::In(s.o),
            Arg::In(s.lse),
            Arg::In(s.seqs.cu_seqlens),
            prefixes(s.seqs),
            Arg::Out(dq),
            Arg::I32(n_seqs as i32),
            Arg::I32(h as i32),
            Arg::I32(kv as i32),
            Arg::I32(dim as i32),
            Arg::F32(scale),
        ],
    )
}

fn attn_bwd_dkv(gpu: &Gpu, s: Saved, dk: ViewMut, dv: ViewMut, heads: Heads) -> Result<()> {
    let (n, n_seqs, Heads { q: h, kv, dim, scale }) = (s.lse.len() / heads.q, s.seqs.len(), heads);
    let kernels = Kernels {
        f32: ["attn_bwd_dkv_f32_d32", "attn_bwd_dkv_f32_d64", "attn_bwd_dkv_f32_d128", "attn_bwd_dkv_f32_d256"],
        bf16: ["attn_bwd_dkv_bf16_d32", "attn_bwd_dkv_bf16_d64", "attn_bwd_dkv_bf16_d128"],
    };
    let (kernel, is_bf16) = pick("attn_bwd", &[s.q.dtype()], dim, kernels)?;
    let f32_bytes = floats_bytes(4 * CHUNK, dim, 2 * CHUNK * P_STRIDE + 2 * CHUNK);
    gpu.launch(
        &Launch {
            kernel,
            op: "attn_bwd",
            grid: [n_slots(n, s.seqs, is_bf16), kv as u32, 1],
            block: [threads(is_bf16), 1, 1],
            shared_bytes: if is_bf16 { halves_bytes(2 * TILE + 4 * CHUNK, dim, 0) } else { f32_bytes },
            shape: &format_args!("N={n} B={n_seqs} H={h} Hk={kv} D={dim}"),
        },
        &mut [
            Arg::In(s.d_o),
            Arg::In(s.q),
            Arg::In(s.k),
            Arg::In(s.v),
            Arg::In(s.o),
            Arg::In(s.lse),
            Arg::In(s.seqs.cu_seqlens),
            prefixes(s.seqs),
            Arg::Out(dk),
            Arg::Out(dv),
            Arg::I32(n_seqs as i32),
            Arg::I32(h as i32),
            Arg::I32(kv as i32),
            Arg::I32(dim as i32),
            Arg::F32(scale),
        ],
    )
}
