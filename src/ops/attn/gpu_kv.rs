//! Launches of what moves keys and values.

use crate::device::gpu::{Arg, Gpu, Launch, by_dtype, vector_width};
use crate::device::{DType, View, ViewMut};
use crate::error::Result;
use crate::ops::attn::{Heads, Paged};

/// Threads of a block of kv_append.
const THREADS: usize = 128;

/// See [`crate::ops::attn::kv_append`]. A page is `[Hk, S, D]`.
pub fn kv_append(
    gpu: &Gpu,
    k: View,
    v: View,
    at: Paged,
    n_pages: usize,
    mut k_pages: ViewMut,
    mut v_pages: ViewMut,
    heads: Heads,
) -> Result<()> {
    let dtype = by_dtype("kv_append", &[k.dtype(), v.dtype(), k_pages.dtype(), v_pages.dtype()])?;
    let (n, Heads { kv, dim, .. }) = (at.pos.len(), heads);
    let starts = [k.address(), v.address(), k_pages.address(), v_pages.address()];
    let width = vector_width(dim, dtype, &starts);
    let rows = (THREADS * width / (kv * dim).max(1)).max(1);
    gpu.launch(
        &Launch {
            kernel: if dtype == DType::Bf16 { "kv_append_bf16" } else { "kv_append_f32" },
            op: "kv_append",
            grid: [n.div_ceil(rows) as u32, 1, 1],
            block: [THREADS as u32, 1, 1],
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
            Arg::I64(n as i64),
            Arg::I32(at.max_pages as i32),
            Arg::I32(n_pages as i32),
            Arg::I32(kv as i32),
            Arg::I32(dim as i32),
            Arg::I32(rows as i32),
            Arg::I32((width > 1) as i32),
        ],
    )
}

/// See [`crate::ops::attn::kv_copy_page`]; a page has `page` elements.
pub fn kv_copy_page(gpu: &Gpu, mut pages: ViewMut, from: usize, to: usize, page: usize) -> Result<()> {
    let dtype = by_dtype("kv_copy_page", &[pages.dtype()])?;
    let width = vector_width(page, dtype, &[pages.address()]);
    let kernel = if dtype == DType::Bf16 { "kv_copy_page_bf16" } else { "kv_copy_page_f32" };
    let shape = format_args!("page {from} to {to} of {page} elements");
    gpu.launch(
        &Launch::elements(kernel, "kv_copy_page", page, width, &shape),
        &mut [
            Arg::Out(pages),
            Arg::I64(from as i64),
            Arg::I64(to as i64),
            Arg::I64(page as i64),
            Arg::I32((width > 1) as i32),
        ],
    )
}
