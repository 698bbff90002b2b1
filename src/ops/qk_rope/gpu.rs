//! Launches of the kernels that norm and turn heads.

use super::{NewRows, Turn};
use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, vector_width};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::attn::Heads;
use std::fmt::Display;

/// Threads of a block, and the lanes that sum a head.
const THREADS: u32 = 256;
const LANES: usize = 16;
/// Elements of a block's rows, about, where it has more than one, and how many at most.
const TILE: usize = 4096;
const MOST_ROWS: usize = 16;
/// Normed heads that stand in shared memory at once: how many at most, and their bytes.
const MOST_HEADS: usize = 128;
const HEADS_BYTES: usize = 40 << 10;

/// Queries or keys as a kernel takes them: raw, weight, rstd, where they go.
type Side<'a> = [Arg<'a>; 4];

fn side(x: Turn) -> Side {
    match x {
        Turn::InPlace(x) => [Arg::Null, Arg::Null, Arg::Null, Arg::Out(x)],
        Turn::Normed { raw, weight, rstd, to } => {
            [Arg::In(raw), Arg::In(weight), rstd.map_or(Arg::Null, Arg::Out), Arg::Out(to)]
        }
    }
}

/// Where a tensor begins; none is everywhere aligned.
fn address(arg: &mut Arg) -> *const u8 {
    match arg {
        Arg::In(x) => x.address(),
        Arg::Out(x) => x.address(),
        _ => std::ptr::null(),
    }
}

/// What a block has: rows, how many of their heads at once, and bytes of shared memory.
struct Share {
    rows: usize,
    heads: usize,
    shared_bytes: usize,
}

/// Of rows of `all` heads of D. Normed heads stand in shared memory, with both weights; all find their angles there.
fn share(all: usize, d: usize, dtype: DType, normed: bool) -> Share {
    let head_bytes = (d + LANES) * dtype.size();
    let fit = (HEADS_BYTES / head_bytes).clamp(1, MOST_HEADS);
    let rows = (TILE / (all * d).max(1)).min(fit / all.max(1)).clamp(1, MOST_ROWS);
    let heads = if normed { fit.min(rows * all) } else { rows * all };
    let of_norms = if normed { 2 * d * dtype.size() + heads * head_bytes } else { 0 };
    Share { rows, heads, shared_bytes: rows * d * size_of::<f32>() + of_norms }
}

/// Blocks over rows.
fn launch<'a>([kernel, op]: [&'static str; 2], n: usize, share: &Share, shape: &'a dyn Display) -> Launch<'a> {
    let grid = [n.div_ceil(share.rows) as u32, 1, 1];
    Launch { kernel, op, grid, block: [THREADS, 1, 1], shared_bytes: share.shared_bytes as u32, shape }
}

/// See [`crate::ops::qk_rope::qk_rope_fwd`].
pub fn qk_rope_fwd(gpu: &Gpu, q: Turn, k: Turn, positions: View, table: View, heads: Heads, eps: f32) -> Result<()> {
    let (n, Heads { q: h, kv, dim: d, .. }) = (positions.len(), heads);
    let dtype = by_dtype("qk_rope_fwd", &[q.dtype(), k.dtype()])?;
    let ([mut q_raw, mut wq, q_rstd, mut q], [mut k_raw, mut wk, k_rstd, mut k]) = (side(q), side(k));
    let [a, b, c, e, f, g] = [&mut q_raw, &mut wq, &mut q, &mut k_raw, &mut wk, &mut k].map(|x| address(x));
    let vectors = vector_width(d / 2, dtype, &[a, b, c, e, f, g, table.address()]) > 1;
    let share = share(h + kv, d, dtype, !matches!(wq, Arg::Null));
    let kernel = if dtype == DType::Bf16 { "qk_rope_fwd_bf16" } else { "qk_rope_fwd_f32" };
    let shape = format_args!("N={n} H={h} Hk={kv} D={d}");
    gpu.launch(
        &launch([kernel, "qk_rope_fwd"], n, &share, &shape),
        &mut [
            q_raw,
            k_raw,
            wq,
            wk,
            Arg::In(positions),
            Arg::In(table),
            q,
            k,
            q_rstd,
            k_rstd,
            Arg::I64(n as i64),
            Arg::I32((table.len() / d) as i32),
            Arg::I32(h as i32),
            Arg::I32(kv as i32),
            Arg::I32(d as i32),
            Arg::F32(eps),
            Arg::I32(share.rows as i32),
            Arg::I32(share.heads as i32),
            Arg::I32(vectors as i32),
        ],
    )
}

/// See [`crate::ops::qk_rope::qk_rope_append`]. A page is `[Hk, S, D]`.
pub fn qk_rope_append(
    gpu: &Gpu,
    rows: NewRows,
    n_pages: usize,
    [mut k_pages, mut v_pages]: [ViewMut; 2],
    heads: Heads,
) -> Result<()> {
    let NewRows { q, k, v, k_norm, at, table, eps } = rows;
    let (n, Heads { q: h, kv, dim: d, .. }) = (at.pos.len(), heads);
    let dtype = by_dtype("qk_rope_append", &[q.dtype(), k.dtype(), v.dtype(), k_pages.dtype(), v_pages.dtype()])?;
    let ([mut q_raw, mut wq, _, mut q], mut wk) = (side(q), k_norm.map_or(Arg::Null, Arg::In));
    let [a, b, c, e] = [&mut q_raw, &mut wq, &mut q, &mut wk].map(|x| address(x));
    let [f, g, i, j] = [k.address(), v.address(), k_pages.address(), v_pages.address()];
    let vectors = vector_width(d / 2, dtype, &[a, b, c, e, f, g, i, j, table.address()]) > 1;
    let share = share(h + 2 * kv, d, dtype, !matches!(wq, Arg::Null));
    let kernel = if dtype == DType::Bf16 { "qk_rope_append_bf16" } else { "qk_rope_append_f32" };
    let shape = format_args!("N={n} P={n_pages} H={h} Hk={kv} D={d}");
    gpu.launch(
        &launch([kernel, "qk_rope_append"], n, &share, &shape),
        &mut [
            q_raw,
            Arg::In(k),
            Arg::In(v),
            wq,
            wk,
            Arg::In(at.seq),
            Arg::In(at.pos),
            Arg::In(at.table),
            Arg::In(table),
            q,
            Arg::Out(k_pages),
            Arg::Out(v_pages),
            Arg::I64(n as i64),
            Arg::I32(at.max_pages as i32),
            Arg::I32(n_pages as i32),
            Arg::I32((table.len() / d) as i32),
            Arg::I32(h as i32),
            Arg::I32(kv as i32),
            Arg::I32(d as i32),
            Arg::F32(eps),
            Arg::I32(share.rows as i32),
            Arg::I32(share.heads as i32),
            Arg::I32(vectors as i32),
        ],
    )
}
