//! Attention, packed and paged, at every head dim that has a kernel.

use super::Tester;
use crate::device::DType;
use crate::error::Result;
use crate::ops::attn::{CHUNK, Heads, Paged, attn_bwd, attn_decode, attn_fwd, kv_append, kv_copy_page, pages_len};

/// Sequences: one longer than a chunk, one of a single token, one that ends with a chunk.
const OFFSETS: [i32; 4] = [0, 39, 40, 72];

pub(super) fn all(t: &mut Tester) -> Result<()> {
    // The f32 kernels take any head dim up to theirs.
    let dims: &[usize] = if t.dtype == DType::Bf16 { &[32, 64, 128] } else { &[32, 48, 128, 200] };
    for dim in dims {
        let heads = Heads { q: 4, kv: 2, dim: *dim, scale: 1.0 / (*dim as f32).sqrt() };
        attention(t, heads)?;
    }
    pages(t)
}

fn attention(t: &mut Tester, heads: Heads) -> Result<()> {
    let n = OFFSETS[3] as usize;
    let (wide, narrow) = (n * heads.q * heads.dim, n * heads.kv * heads.dim);
    let (q, k, v, d_o) = (t.input(wide)?, t.input(narrow)?, t.input(narrow)?, t.input(wide)?);
    let (cu, mut o, mut lse) = (t.dev.upload(&OFFSETS)?, t.out(wide)?, t.out_f32(n * heads.q)?);
    let (qv, kv, vv) = (q.buffer.view(), k.buffer.view(), v.buffer.view());
    attn_fwd(t.dev, qv, kv, vv, cu.view(), o.view_mut(), lse.view_mut(), heads)?;
    let shape = format!("N {n} H {} Hk {} D {}", heads.q, heads.kv, heads.dim);
    let (want_o, want_lse) = crate::ops::attn::oracle::attn_fwd(&q.values, &k.values, &v.values, &OFFSETS, heads);
    t.holds("attn_fwd", "o", &shape, &want_o, &o);
    t.holds("attn_fwd", "lse", &shape, &want_lse, &lse);

    let (mut dq, mut dk, mut dv) = (t.out(wide)?, t.out(narrow)?, t.out(narrow)?);
    let (ov, lv, dov) = (o.view(), lse.view(), d_o.buffer.view());
    attn_bwd(t.dev, dov, qv, kv, vv, ov, lv, cu.view(), dq.view_mut(), dk.view_mut(), dv.view_mut(), heads)?;
    let want = crate::ops::attn::oracle::attn_bwd(&d_o.values, &q.values, &k.values, &v.values, &OFFSETS, heads);
    t.holds("attn_bwd", "dq", &shape, &want.0, &dq);
    t.holds("attn_bwd", "dk", &shape, &want.1, &dk);
    t.holds("attn_bwd", "dv", &shape, &want.2, &dv);

    // The same rows over pages, which lie backwards.
    let max_pages = 2;
    let (seq, pos): (Vec<i32>, Vec<i32>) =
        (0..3i32).flat_map(|s| (0..OFFSETS[s as usize + 1] - OFFSETS[s as usize]).map(move |p| (s, p))).unzip();
    let table: Vec<i32> = (0..3 * max_pages as i32).rev().collect();
    let (seq, pos, table) = (t.dev.upload(&seq)?, t.dev.upload(&pos)?, t.dev.upload(&table)?);
    let at = Paged { seq: seq.view(), pos: pos.view(), table: table.view(), max_pages };
    let len = pages_len(3 * max_pages, heads);
    let (mut k_pages, mut v_pages) = (t.dev.zeros(t.dtype, len)?, t.dev.zeros(t.dtype, len)?);
    kv_append(t.dev, kv, vv, at, k_pages.view_mut(), v_pages.view_mut(), heads)?;
    let mut paged = t.out(wide)?;
    attn_decode(t.dev, qv, k_pages.view(), v_pages.view(), at, paged.view_mut(), heads)?;
    t.holds("attn_decode", "o", &shape, &want_o, &paged);
    let same = bytes(t, &paged)? == bytes(t, &o)?;
    t.exactly("attn_decode", "the bits of attn_fwd", &shape, same);
    Ok(())
}

fn bytes(t: &Tester, x: &crate::device::Buffer) -> Result<Vec<u32>> {
    Ok(match x.dtype() {
        DType::Bf16 => t.dev.download::<half::bf16>(x.view())?.iter().map(|x| x.to_bits() as u32).collect(),
        _ => t.dev.download::<f32>(x.view())?.iter().map(|x| x.to_bits()).collect(),
    })
}

fn pages(t: &mut Tester) -> Result<()> {
    let heads = Heads { q: 2, kv: 2, dim: 32, scale: 1.0 };
    let page = pages_len(1, heads);
    let mut pages = t.input(3 * page)?;
    kv_copy_page(t.dev, pages.buffer.view_mut(), 2, 0, heads)?;
    let mut want = pages.values.clone();
    want.copy_within(2 * page.., 0);
    t.holds_within("kv_copy_page", "pages", &format!("P 3 S {CHUNK}"), &want, &pages.buffer, 0.0);
    Ok(())
}
