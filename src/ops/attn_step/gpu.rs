//! Launches of attention of new rows.

use crate::device::gpu::{Arg, Gpu, Launch, vector_width};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::attn::gpu::{Kernels, THREADS, aligned, pick};
use crate::ops::attn::gpu_decode::{blocks_a_row, parts_len, shared_bytes};
use crate::ops::attn::{Heads, SEGMENT};
use crate::ops::qk_rope::{NewRows, Turn};

/// See [`crate::ops::attn_step::attn_step`].
pub fn attn_step(
    gpu: &Gpu,
    rows: NewRows,
    n_pages: usize,
    [mut k_pages, mut v_pages]: [ViewMut; 2],
    o: ViewMut,
    workspace: ViewMut,
    heads: Heads,
) -> Result<()> {
    let (at, Heads { q: h, kv, dim, scale }) = (rows.at, heads);
    let (q, q_norm): (View, Option<View>) = match &rows.q {
        Turn::InPlace(q) => (q.view(), None),
        Turn::Normed { raw, weight, .. } => (*raw, Some(*weight)),
    };
    let kernels = Kernels {
        f32: ["attn_step_f32_d32", "attn_step_f32_d64", "attn_step_f32_d128", "attn_step_f32_d256"],
        bf16: ["attn_step_bf16_d32", "attn_step_bf16_d64", "attn_step_bf16_d128"],
    };
    let dtypes = [q, rows.k, rows.v, q_norm.unwrap_or(q), rows.k_norm.unwrap_or(q)].map(|x| x.dtype());
    let [a, b, c, d, e] = dtypes;
    let all = [a, b, c, d, e, k_pages.dtype(), v_pages.dtype(), o.dtype()];
    let (kernel, is_bf16) = pick("attn_step", &all, dim, kernels)?;
    aligned("attn_step", is_bf16, &[k_pages.view(), v_pages.view(), o.view()])?;
    let starts = [q, rows.k, rows.v, q_norm.unwrap_or(q), rows.k_norm.unwrap_or(q), rows.table].map(|x| x.address());
    let vectors = vector_width(dim / 2, if is_bf16 { DType::Bf16 } else { DType::F32 }, &starts) > 1;
    let (n, segments) = (at.pos.len(), at.longest.div_ceil(SEGMENT));
    let blocks = blocks_a_row(n, segments, heads, workspace.len());
    let mut parts = (blocks > 1).then(|| workspace.at(0..parts_len(n, segments, heads)));
    gpu.launch_dependent(
        &Launch {
            kernel,
            op: "attn_step",
            grid: [n as u32, kv as u32, blocks as u32],
            block: [THREADS, 1, 1],
            shared_bytes: shared_bytes(is_bf16, dim),
            shape: &format_args!("N={n} P={n_pages} H={h} Hk={kv} D={dim} G={segments}"),
        },
        &mut [
            Arg::In(q),
            Arg::In(rows.k),
            Arg::In(rows.v),
            q_norm.map_or(Arg::Null, Arg::In),
            rows.k_norm.map_or(Arg::Null, Arg::In),
            Arg::In(at.seq),
            Arg::In(at.pos),
            Arg::In(at.table),
            Arg::In(rows.table),
            Arg::Out(k_pages.reborrow()),
            Arg::Out(v_pages.reborrow()),
            Arg::Out(o),
            parts.as_mut().map_or(Arg::Null, |parts| Arg::Out(parts.reborrow())),
            Arg::I64(n as i64),
            Arg::I32(at.max_pages as i32),
            Arg::I32(n_pages as i32),
            Arg::I32(segments as i32),
            Arg::I32((rows.table.len() / dim) as i32),
            Arg::I32(h as i32),
            Arg::I32(kv as i32),
            Arg::I32(dim as i32),
            Arg::F32(scale),
            Arg::F32(rows.eps),
            Arg::I32(vectors as i32),
        ],
    )
}
