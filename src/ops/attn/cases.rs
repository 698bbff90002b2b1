//! Cases of attention, packed and over pages: one token, odd heads, empty sequences, sequences that end with a chunk or a
//! segment, more heads than a walk takes, every head dim that has a kernel.

use super::ladder;
use super::oracle;
use super::{
    CHUNK, Heads, MAX_DIM, Packed, Paged, SEGMENT, Sequences, attn_bwd, attn_decode, attn_decode_workspace, attn_fwd,
    cost, kv_append, kv_copy_page, pages_len,
};
use crate::device::record::Keys;
use crate::device::{Buffer, DType, Device};
use crate::error::Result;
use crate::ops::case::{EXACT, Floor, Stage, same_bits};

/// Lengths of the packed sequences, and heads.
type Shape = (Vec<usize>, Heads);

fn heads(q: usize, kv: usize, dim: usize) -> Heads {
    Heads { q, kv, dim, scale: 1.0 / (dim as f32).sqrt() }
}

/// One sequence longer than a chunk, one of a single token, one that ends with a chunk.
fn few(dtype: DType) -> Vec<Shape> {
    // The f32 kernels take any head dim up to theirs.
    let dims: &[usize] = if dtype == DType::Bf16 { &[32, 64, 128] } else { &[32, 48, 128, 200] };
    dims.iter().map(|dim| (vec![39, 1, 32], heads(4, 2, *dim))).collect()
}

fn odd(dtype: DType) -> Vec<Shape> {
    if dtype == DType::Bf16 {
        return vec![
            (vec![1], heads(1, 1, 32)),
            (vec![33, 1, 32], heads(2, 2, 64)),
            (vec![0, 64, 31, 0, 65], heads(4, 2, 32)),
            (vec![97, 140], heads(4, 1, 64)),
            (vec![45, 70], heads(6, 2, 128)),
            (vec![40], heads(18, 1, 32)),
            (vec![SEGMENT + 1, SEGMENT], heads(1, 1, 32)),
        ];
    }
    vec![
        (vec![1], heads(1, 1, 1)),
        (vec![5], heads(3, 1, 7)),
        (vec![33, 1, 32], heads(2, 2, 33)),
        (vec![0, 64, 31, 0], heads(4, 2, 32)),
        (vec![97, 40], heads(4, 2, 64)),
        (vec![70], heads(18, 1, 48)),
        (vec![45], heads(2, 1, 128)),
        (vec![39], heads(2, 1, MAX_DIM)),
        (vec![SEGMENT + 1, SEGMENT], heads(1, 1, 5)),
    ]
}

/// Lengths of sequences, how much of its stem each shares, and heads.
type Family = (Vec<usize>, Vec<usize>, Heads);

/// Prefixes inside a chunk, at its end, longer than a tile, of one row; of different lengths on one stem; two families; a
/// sequence with no rows of its own.
fn families(dtype: DType) -> Vec<Family> {
    let dims: &[usize] = if dtype == DType::Bf16 { &[32, 64, 128] } else { &[32, 48, 128, 200] };
    let of = |dim: &usize| {
        vec![
            (vec![70, 75, 66, 1, 40], vec![0, 37, 64, 0, 1], heads(4, 2, *dim)),
            (vec![101, 133, 99, 100, 100], vec![0, 99, 98, 99, 31], heads(2, 2, *dim)),
        ]
    };
    dims.iter().flat_map(of).collect()
}

const FLOOR_O: Floor = [1.1e-6, 2.7e-3];
const FLOOR_LSE: Floor = [5.1e-7, 1.8e-7];
const FLOOR_D: Floor = [1.3e-6, 5.1e-3];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    let sequences = |t: usize| if t == 64 || t == 4096 { 1 } else { 8 };
    let packed = s.shapes(&few(s.dtype), &odd(s.dtype), |m| {
        let of = |t| (vec![t; sequences(t)], heads(m.heads, m.kv_heads, m.head_dim));
        [64, 256, 512, 4096].map(of).into()
    });
    for (lens, heads) in &packed {
        attention(s, lens, &[], *heads)?;
    }
    let paged = s.shapes(&few(s.dtype), &odd(s.dtype), |m| {
        [128, 512].map(|t| (vec![t; 64], heads(m.heads, m.kv_heads, m.head_dim))).into()
    });
    // A lone conversation, or few rows: segments run side by side.
    let lone = s.shapes(&[(vec![SEGMENT + 1], heads(2, 1, 32))], &[], |m| {
        vec![(vec![8192], heads(m.heads, m.kv_heads, m.head_dim))]
    });
    for (lens, heads) in paged.iter().chain(&lone) {
        pages(s, lens, *heads)?;
    }
    let shared = s.shapes(&families(s.dtype), &families(s.dtype), |m| {
        let heads = heads(m.heads, m.kv_heads, m.head_dim);
        [256, 1024].map(|t| (vec![t; 8], [vec![0], vec![t / 2; 7]].concat(), heads)).into()
    });
    for (lens, prefixes, heads) in &shared {
        attention(s, lens, prefixes, *heads)?;
    }
    Ok(())
}

/// The ladder at few shapes.
///
/// # Errors
/// What a rung refuses.
pub fn rungs(s: &mut Stage) -> Result<()> {
    [64, 128].into_iter().try_for_each(|dim| climb(s, &[39, 1, 0, 32], heads(4, 2, dim)))
}

/// Every rung of the ladder that the device has, on the same numbers; bf16, D of 64 or 128. Nothing on the CPU.
///
/// # Errors
/// What a rung refuses.
pub fn climb(s: &mut Stage, lens: &[usize], heads: Heads) -> Result<()> {
    let Device::Gpu(gpu) = s.dev.clone() else { return Ok(()) };
    let (cu, longest) = (offsets(lens), lens.iter().copied().max().unwrap_or(0));
    let (seqs, n) = (Sequences::apart(&cu), lens.iter().sum::<usize>());
    let (wide, narrow) = (n * heads.q * heads.dim, n * heads.kv * heads.dim);
    let (q, k, v) = (s.scaled(wide, 2.0, s.dtype)?, s.input(narrow)?, s.input(narrow)?);
    let cu_seqlens = s.dev.upload(&cu)?;
    let (q_view, k_view, v_view) = (q.buffer.view(), k.buffer.view(), v.buffer.view());
    let x = ladder::Inputs { q: q_view, k: k_view, v: v_view, cu_seqlens: cu_seqlens.view(), longest };
    for (rung, how) in ladder::RUNGS.iter().filter(|(rung, _)| rung.runs_on(&gpu)) {
        let (mut o, mut lse) = (s.out(wide)?, s.out_f32(n * heads.q)?);
        let mut scratch = s.out_f32(ladder::scratch_bytes(*how, n, longest, heads) / DType::F32.size())?;
        let cost = cost::attn_fwd(n, heads, seqs.keys(), s.dtype);
        s.call(rung.stem, &format!("B {}", lens.len()), cost, |_| {
            ladder::attn_fwd(&gpu, *how, x, [o.view_mut(), lse.view_mut()], scratch.view_mut(), heads)
        })?;
        let want = || oracle::attn_fwd(&q.values, &k.values, &v.values, seqs, heads);
        s.holds("o", &o, FLOOR_O, || want().0);
        s.holds("lse", &lse, FLOOR_LSE, || want().1);
        s.exactly("scores end where they say", |_| Ok(scratch.guard_intact()))?;
    }
    Ok(())
}

fn offsets(lens: &[usize]) -> Vec<i32> {
    let mut all = vec![0];
    lens.iter().for_each(|len| all.push(all[all.len() - 1] + *len as i32));
    all
}

/// Sequences that begin with so many rows of the last one that begins with none.
fn attention(s: &mut Stage, lens: &[usize], prefixes: &[usize], heads: Heads) -> Result<()> {
    if !s.wants(&["attn_fwd", "attn_bwd"]) {
        return Ok(());
    }
    let prefix = |i: usize| prefixes.get(i).copied().unwrap_or(0);
    let own: Vec<usize> = lens.iter().enumerate().map(|(i, len)| len - prefix(i)).collect();
    let (cu, n, dtype) = (offsets(&own), own.iter().sum::<usize>(), s.dtype);
    let mut stem = 0;
    let mut at = |i: usize| {
        stem = if prefix(i) == 0 { cu[i] } else { stem };
        [stem, prefix(i) as i32]
    };
    let before: Vec<i32> = (0..prefixes.len()).flat_map(&mut at).collect();
    let seqs = Sequences { cu: &cu, prefixes: &before };
    let (wide, narrow, keys) = (n * heads.q * heads.dim, n * heads.kv * heads.dim, seqs.keys());
    // Scores of a few units: the softmax is neither flat nor a single key.
    let (q, k, v, d_o) = (s.scaled(wide, 2.0, dtype)?, s.input(narrow)?, s.input(narrow)?, s.input(wide)?);
    let (cu_seqlens, prefixes, mut o, mut lse) =
        (s.dev.upload(&cu)?, s.dev.upload(&before)?, s.out(wide)?, s.out_f32(n * heads.q)?);
    let packed = Packed { cu_seqlens: cu_seqlens.view(), prefixes: (!before.is_empty()).then(|| prefixes.view()) };
    let what = &format!("B {}{}", lens.len(), if before.is_empty() { "" } else { " shared" });
    s.call("attn_fwd", what, cost::attn_fwd(n, heads, keys, dtype), |dev| {
        let (q, k, v) = (q.buffer.view(), k.buffer.view(), v.buffer.view());
        attn_fwd(dev, q, k, v, packed, o.view_mut(), lse.view_mut(), heads)
    })?;
    let want = || oracle::attn_fwd(&q.values, &k.values, &v.values, seqs, heads);
    s.holds("o", &o, FLOOR_O, || want().0);
    s.holds("lse", &lse, FLOOR_LSE, || want().1);
    // A clock may not have called forward.
    let (o, lse) = if s.times() { (s.input(wide)?.buffer, s.dev.upload(&vec![9f32; n * heads.q])?) } else { (o, lse) };
    let (mut dq, mut dk, mut dv) = (s.out(wide)?, s.out(narrow)?, s.out(narrow)?);
    s.call("attn_bwd", what, cost::attn_bwd(n, heads, keys, dtype), |dev| {
        let (q, k, v, o, lse) = (q.buffer.view(), k.buffer.view(), v.buffer.view(), o.view(), lse.view());
        let (dq, dk, dv) = (dq.view_mut(), dk.view_mut(), dv.view_mut());
        attn_bwd(dev, d_o.buffer.view(), q, k, v, o, lse, packed, dq, dk, dv, heads)
    })?;
    let want = || oracle::attn_bwd(&d_o.values, &q.values, &k.values, &v.values, seqs, heads);
    s.holds("dv", &dv, FLOOR_D, || want().2);
    // A token that sees itself alone moves no score: zero, and no error relative to it.
    if lens.iter().any(|len| *len > 1) {
        s.holds("dq", &dq, FLOOR_D, || want().0);
        s.holds("dk", &dk, FLOOR_D, || want().1);
    }
    Ok(())
}

/// The last rows of sequences over pages that lie backwards: all rows of each when checking, one when timing.
fn pages(s: &mut Stage, lens: &[usize], heads: Heads) -> Result<()> {
    if !s.wants(&["attn_decode", "kv_append", "kv_copy_page"]) {
        return Ok(());
    }
    let (times, dtype, cu) = (s.times(), s.dtype, offsets(lens));
    let first = |len: usize| if times { len - 1 } else { 0 };
    let rows =
        lens.iter().enumerate().flat_map(|(seq, len)| (first(*len)..*len).map(move |pos| (seq as i32, pos as i32)));
    let (seqs, positions): (Vec<i32>, Vec<i32>) = rows.unzip();
    let t = lens.iter().max().copied().unwrap_or(0);
    let (n, max_pages) = (seqs.len(), t.div_ceil(CHUNK).max(1));
    let n_pages = lens.len() * max_pages;
    let (wide, narrow, type_of_pages) = (n * heads.q * heads.dim, n * heads.kv * heads.dim, s.dev.factor_dtype(dtype));
    let (q, k, v) = (s.scaled(wide, 2.0, dtype)?, s.input(narrow)?, s.input(narrow)?);
    let len = pages_len(n_pages, heads);
    let full = |s: &mut Stage| -> Result<Buffer> {
        if times { Ok(s.input_as(len, type_of_pages)?.buffer) } else { s.out_as(len, type_of_pages) }
    };
    let (mut k_pages, mut v_pages) = (full(s)?, full(s)?);
    let (seq, pos) = (s.dev.upload(&seqs)?, s.dev.upload(&positions)?);
    let table = s.dev.upload(&(0..n_pages as i32).rev().collect::<Vec<i32>>())?;
    let at = Paged { seq: seq.view(), pos: pos.view(), table: table.view(), max_pages, longest: t };
    // What moves rows and pages is timed with the batches.
    let lone = times && lens.len() == 1;
    if !lone {
        s.call("kv_append", "", cost::kv_append(n, heads, dtype, type_of_pages), |dev| {
            kv_append(dev, k.buffer.view(), v.buffer.view(), at, k_pages.view_mut(), v_pages.view_mut(), heads)
        })?;
    }
    s.exactly("pages end where they say", |_| Ok(k_pages.guard_intact() && v_pages.guard_intact()))?;
    let (mut o, keys) = (s.out(wide)?, Keys::paged(&seqs, &positions));
    let mut parts = s.parts(attn_decode_workspace(&s.dev, n, t, heads))?;
    s.call("attn_decode", &format!("T {t}"), cost::attn_decode(n, heads, keys, dtype, type_of_pages), |dev| {
        attn_decode(dev, q.buffer.view(), k_pages.view(), v_pages.view(), at, o.view_mut(), parts.view_mut(), heads)
    })?;
    s.holds("o", &o, FLOOR_O, || oracle::attn_fwd(&q.values, &k.values, &v.values, Sequences::apart(&cu), heads).0);
    s.exactly("parts end where they say", |_| Ok(parts.guard_intact()))?;
    s.exactly("the bits of attn_fwd", |dev| {
        let (cu, mut lse) = (dev.upload(&cu)?, dev.zeros(DType::F32, n * heads.q)?);
        let mut packed = dev.zeros(dtype, wide)?;
        let (q, k, v) = (q.buffer.view(), k.buffer.view(), v.buffer.view());
        attn_fwd(dev, q, k, v, Packed::apart(cu.view()), packed.view_mut(), lse.view_mut(), heads)?;
        same_bits(dev, &packed, &o)
    })?;
    if lone {
        return Ok(());
    }
    let mut pages = s.input_as(pages_len(n_pages.max(2), heads), type_of_pages)?;
    let (page, last) = (pages_len(1, heads), n_pages.max(2) - 1);
    s.call("kv_copy_page", "", crate::ops::embed::cost::copy(page, type_of_pages, type_of_pages), |dev| {
        kv_copy_page(dev, pages.buffer.view_mut(), last, 0, heads)
    })?;
    s.holds("pages", &pages.buffer, EXACT, || {
        let mut want = pages.values.clone();
        want.copy_within(last * page.., 0);
        want
    });
    Ok(())
}
