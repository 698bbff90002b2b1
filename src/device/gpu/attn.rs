//! Launches of attention and of what moves keys and values.

use super::{Arg, Gpu, Launch, by_dtype};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::attn::{CHUNK, Heads, Paged};

/// Threads that share a query or a key of the f32 kernels.
const LANES: u32 = 8;
/// Heads of a group that walk together in attn_decode.
const QUERIES: usize = 16;
/// Threads of the copying kernels.
const THREADS: u32 = 256;

/// The kernel for a head dim, of those for up to 32, 64, 128, 256.
fn by_dim(dim: usize, kernels: [&'static str; 4]) -> &'static str {
    kernels[[32, 64, 128].iter().take_while(|most| dim > **most).count()]
}

/// Bytes of `rows` rows of D floats an odd number of floats apart, and `more` floats.
fn shared_bytes(rows: usize, dim: usize, more: usize) -> u32 {
    ((rows * (dim | 1) + more) * size_of::<f32>()) as u32
}

/// Tiles of queries at most, whatever the sequences' lengths: see kernels/common/attn.cuh.
fn n_slots(n: usize, cu_seqlens: View) -> u32 {
    (n / CHUNK + cu_seqlens.len() - 1) as u32
}

fn f32_only(gpu: &Gpu, op: &'static str, dtypes: &[DType]) -> Result<()> {
    if by_dtype(op, dtypes)? == DType::F32 { Ok(()) } else { gpu.no_kernel(op) }
}

/// See [`crate::ops::attn::attn_fwd`].
pub fn attn_fwd(
    gpu: &Gpu,
    q: View,
    k: View,
    v: View,
    cu_seqlens: View,
    o: ViewMut,
    lse: ViewMut,
    heads: Heads,
) -> Result<()> {
    f32_only(gpu, "attn_fwd", &[q.dtype(), k.dtype(), v.dtype(), o.dtype()])?;
    let (n, n_seqs, Heads { q: h, kv, dim, scale }) = (lse.len() / heads.q, cu_seqlens.len() - 1, heads);
    gpu.launch(
        &Launch {
            kernel: by_dim(dim, ["attn_fwd_f32_d32", "attn_fwd_f32_d64", "attn_fwd_f32_d128", "attn_fwd_f32_d256"]),
            op: "attn_fwd",
            grid: [n_slots(n, cu_seqlens), h as u32, 1],
            block: [CHUNK as u32 * LANES, 1, 1],
            shared_bytes: shared_bytes(3 * CHUNK, dim, CHUNK * (CHUNK + 1)),
            shape: &format_args!("N={n} B={n_seqs} H={h} Hk={kv} D={dim}"),
        },
        &mut [
            Arg::In(q),
            Arg::In(k),
            Arg::In(v),
            Arg::In(cu_seqlens),
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

/// What both kernels of attn_bwd read.
#[derive(Clone, Copy)]
struct Saved<'a> {
    d_o: View<'a>,
    q: View<'a>,
    k: View<'a>,
    v: View<'a>,
    o: View<'a>,
    lse: View<'a>,
    cu_seqlens: View<'a>,
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
    cu_seqlens: View,
    dq: ViewMut,
    dk: ViewMut,
    dv: ViewMut,
    heads: Heads,
) -> Result<()> {
    let dtypes = [d_o.dtype(), q.dtype(), k.dtype(), v.dtype(), o.dtype(), dq.dtype(), dk.dtype(), dv.dtype()];
    f32_only(gpu, "attn_bwd", &dtypes)?;
    let saved = Saved { d_o, q, k, v, o, lse, cu_seqlens };
    attn_bwd_dq(gpu, saved, dq, heads)?;
    attn_bwd_dkv(gpu, saved, dk, dv, heads)
}

fn attn_bwd_dq(gpu: &Gpu, s: Saved, dq: ViewMut, heads: Heads) -> Result<()> {
    let (n, n_seqs, Heads { q: h, kv, dim, scale }) = (s.lse.len() / heads.q, s.cu_seqlens.len() - 1, heads);
    let kernels = ["attn_bwd_dq_f32_d32", "attn_bwd_dq_f32_d64", "attn_bwd_dq_f32_d128", "attn_bwd_dq_f32_d256"];
    gpu.launch(
        &Launch {
            kernel: by_dim(dim, kernels),
            op: "attn_bwd",
            grid: [n_slots(n, s.cu_seqlens), h as u32, 1],
            block: [CHUNK as u32 * LANES, 1, 1],
            shared_bytes: shared_bytes(4 * CHUNK, dim, CHUNK * (CHUNK + 1)),
            shape: &format_args!("N={n} B={n_seqs} H={h} Hk={kv} D={dim}"),
        },
        &mut [
            Arg::In(s.d_o),
            Arg::In(s.q),
            Arg::In(s.k),
            Arg::In(s.v),
            Arg::In(s.o),
            Arg::In(s.lse),
            Arg::In(s.cu_seqlens),
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
    let (n, n_seqs, Heads { q: h, kv, dim, scale }) = (s.lse.len() / heads.q, s.cu_seqlens.len() - 1, heads);
    let kernels = ["attn_bwd_dkv_f32_d32", "attn_bwd_dkv_f32_d64", "attn_bwd_dkv_f32_d128", "attn_bwd_dkv_f32_d256"];
    gpu.launch(
        &Launch {
            kernel: by_dim(dim, kernels),
            op: "attn_bwd",
            grid: [n_slots(n, s.cu_seqlens), kv as u32, 1],
            block: [CHUNK as u32 * LANES, 1, 1],
            shared_bytes: shared_bytes(4 * CHUNK, dim, 2 * CHUNK * (CHUNK + 1) + 2 * CHUNK),
            shape: &format_args!("N={n} B={n_seqs} H={h} Hk={kv} D={dim}"),
        },
        &mut [
            Arg::In(s.d_o),
            Arg::In(s.q),
            Arg::In(s.k),
            Arg::In(s.v),
            Arg::In(s.o),
            Arg::In(s.lse),
            Arg::In(s.cu_seqlens),
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

/// See [`crate::ops::attn::attn_decode`].
pub fn attn_decode(
    gpu: &Gpu,
    q: View,
    k_pages: View,
    v_pages: View,
    at: Paged,
    n_pages: usize,
    o: ViewMut,
    heads: Heads,
) -> Result<()> {
    f32_only(gpu, "attn_decode", &[q.dtype(), k_pages.dtype(), v_pages.dtype(), o.dtype()])?;
    let (n, Heads { q: h, kv, dim, scale }) = (at.pos.len(), heads);
    let kernels = ["attn_decode_f32_d32", "attn_decode_f32_d64", "attn_decode_f32_d128", "attn_decode_f32_d256"];
    gpu.launch(
        &Launch {
            kernel: by_dim(dim, kernels),
            op: "attn_decode",
            grid: [n as u32, kv as u32, 1],
            block: [QUERIES as u32 * LANES, 1, 1],
            shared_bytes: shared_bytes(QUERIES + 2 * CHUNK, dim, QUERIES * (CHUNK + 1)),
            shape: &format_args!("N={n} P={n_pages} H={h} Hk={kv} D={dim}"),
        },
        &mut [
            Arg::In(q),
            Arg::In(k_pages),
            Arg::In(v_pages),
            Arg::In(at.seq),
            Arg::In(at.pos),
            Arg::In(at.table),
            Arg::Out(o),
            Arg::I32(at.max_pages as i32),
            Arg::I32(n_pages as i32),
            Arg::I32(h as i32),
            Arg::I32(kv as i32),
            Arg::I32(dim as i32),
            Arg::F32(scale),
        ],
    )
}

/// See [`crate::ops::attn::kv_append`]. A page is `[Hk, S, D]`.
pub fn kv_append(
    gpu: &Gpu,
    k: View,
    v: View,
    at: Paged,
    n_pages: usize,
    k_pages: ViewMut,
    v_pages: ViewMut,
    heads: Heads,
) -> Result<()> {
    let dtype = by_dtype("kv_append", &[k.dtype(), v.dtype(), k_pages.dtype(), v_pages.dtype()])?;
    let (n, Heads { kv, dim, .. }) = (at.pos.len(), heads);
    gpu.launch(
        &Launch {
            kernel: if dtype == DType::Bf16 { "kv_append_bf16" } else { "kv_append_f32" },
            op: "kv_append",
            grid: [n as u32, 1, 1],
            block: [128, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("N={n} P={n_pages} Hk={kv} D={dim}"),
        },
        &mut [
            Arg::In(k),
            Arg::In(v),
            Arg::In(at.seq),
            Arg::In(at.pos),
            Arg::In(at.table),
            Arg::Out(k_pages),
            Arg::Out(v_pages),
            Arg::I32(at.max_pages as i32),
            Arg::I32(n_pages as i32),
            Arg::I32(kv as i32),
            Arg::I32(dim as i32),
        ],
    )
}

/// See [`crate::ops::attn::kv_copy_page`]; a page has `page` elements.
pub fn kv_copy_page(gpu: &Gpu, pages: ViewMut, from: usize, to: usize, page: usize) -> Result<()> {
    let dtype = by_dtype("kv_copy_page", &[pages.dtype()])?;
    gpu.launch(
        &Launch {
            kernel: if dtype == DType::Bf16 { "kv_copy_page_bf16" } else { "kv_copy_page_f32" },
            op: "kv_copy_page",
            grid: [page.div_ceil(THREADS as usize) as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            shape: &format_args!("page {from} to {to} of {page} elements"),
        },
        &mut [Arg::Out(pages), Arg::I64(from as i64), Arg::I64(to as i64), Arg::I64(page as i64)],
    )
}
