//! Cases of attention of new rows: with norms and without; the first token of a sequence, one that ends with a chunk, with a
//! segment, that begins one; segments side by side; odd heads, more than walk together.

use super::{attn_step, cost, oracle};
use crate::device::record::Keys;
use crate::device::{Buffer, DType, Device};
use crate::error::Result;
use crate::ops::attn::{CHUNK, Heads, Paged, SEGMENT, attn_decode, attn_decode_workspace, kv_append, pages_len};
use crate::ops::case::{Dims, Floor, Stage, Tensor, same_bits};
use crate::ops::qk_rope::{NewRows, Turn, qk_rope_append};
use crate::ops::rope::{frequencies, table};

const THETA: f64 = 1e4;
const EPS: f32 = 1e-6;

const FLOOR: Floor = [1.1e-6, 3.9e-3];

/// Lengths of the sequences, and heads.
type Shape = (Vec<usize>, Heads);

fn heads(q: usize, kv: usize, dim: usize) -> Heads {
    Heads { q, kv, dim, scale: 1.0 / (dim as f32).sqrt() }
}

fn few(dtype: DType) -> Vec<Shape> {
    let dims: &[usize] = if dtype == DType::Bf16 { &[32, 64, 128] } else { &[32, 48, 128, 200] };
    dims.iter().map(|dim| (vec![39, 1, 32, 33], heads(4, 2, *dim))).collect()
}

fn odd(dtype: DType) -> Vec<Shape> {
    let lens = vec![SEGMENT, SEGMENT + 1, 3, 2 * SEGMENT + 70];
    let mut all = vec![(vec![1], heads(1, 1, 32)), (lens, heads(6, 2, 32)), (vec![70, 64], heads(18, 1, 64))];
    if dtype == DType::F32 {
        all.extend([(vec![5, 1], heads(3, 1, 6)), (vec![40], heads(36, 2, 2)), (vec![33, 31], heads(2, 1, 256))]);
    }
    all
}

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    let model = |m: Dims| {
        let heads = heads(m.heads, m.kv_heads, m.head_dim);
        vec![(vec![512; 64], heads), (vec![1024], heads), (vec![8192], heads), (vec![1024; 64], heads)]
    };
    for (lens, heads) in s.shapes(&few(s.dtype), &odd(s.dtype), model) {
        for normed in [true, false] {
            step(s, &lens, heads, normed)?;
        }
    }
    Ok(())
}

/// What a step reads: queries, keys and values as they were projected, norms.
struct New {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    norms: Option<[Tensor; 2]>,
    angles: Buffer,
}

impl New {
    fn rows<'a>(&'a self, to: &'a mut Buffer, at: Paged<'a>) -> NewRows<'a> {
        let (q, k_norm) = match &self.norms {
            None => (Turn::InPlace(to.view_mut()), None),
            Some([q_norm, k_norm]) => {
                let (raw, weight) = (self.q.buffer.view(), q_norm.buffer.view());
                (Turn::Normed { raw, weight, rstd: None, to: to.view_mut() }, Some(k_norm.buffer.view()))
            }
        };
        let (k, v) = (self.k.buffer.view(), self.v.buffer.view());
        NewRows { q, k, v, k_norm, at, table: self.angles.view(), eps: EPS }
    }

    /// Where queries go: without norms they are there.
    fn to(&self, s: &Stage) -> Result<Buffer> {
        let values: Vec<f32> = self.q.values.iter().map(|x| *x as f32).collect();
        let len = self.q.buffer.len();
        if self.norms.is_some() || s.times() { s.out(len) } else { Ok(s.tensor(&values, s.dtype)?.buffer) }
    }
}

fn step(s: &mut Stage, lens: &[usize], heads: Heads, normed: bool) -> Result<()> {
    if !s.wants(&["attn_step"]) {
        return Ok(());
    }
    let (n, dtype, d) = (lens.len(), s.dtype, heads.dim);
    let t = lens.iter().max().copied().unwrap_or(1);
    let (max_pages, type_of_pages) = (t.div_ceil(CHUNK), s.dev.factor_dtype(dtype));
    let len = pages_len(n * max_pages, heads);
    let [q, k, v] = [s.scaled(n * heads.q * d, 2.0, dtype)?, s.input(n * heads.kv * d)?, s.input(n * heads.kv * d)?];
    let norms = if normed { Some([s.input(d)?, s.input(d)?]) } else { None };
    let new = New { q, k, v, norms, angles: s.dev.upload(&table(t, &frequencies(d, THETA)))? };
    let (seqs, positions): (Vec<i32>, Vec<i32>) =
        lens.iter().enumerate().map(|(i, len)| (i as i32, *len as i32 - 1)).unzip();
    let (seq, pos) = (s.dev.upload(&seqs)?, s.dev.upload(&positions)?);
    let pages = s.dev.upload(&(0..(n * max_pages) as i32).rev().collect::<Vec<i32>>())?;
    let at = Paged { seq: seq.view(), pos: pos.view(), table: pages.view(), max_pages, longest: t };
    let (before, mut k_pages, mut v_pages) = if s.times() {
        (None, s.input_as(len, type_of_pages)?.buffer, s.input_as(len, type_of_pages)?.buffer)
    } else {
        let (mut k_pages, mut v_pages) = (s.out_as(len, type_of_pages)?, s.out_as(len, type_of_pages)?);
        let before = fill(s, lens, [&mut k_pages, &mut v_pages], at, heads)?;
        (Some(before), k_pages, v_pages)
    };
    let apart = (!s.times())
        .then(|| Ok::<_, crate::Error>([copied(&s.dev, &k_pages)?, copied(&s.dev, &v_pages)?]))
        .transpose()?;
    let (mut to, mut o) = (new.to(s)?, s.out(n * heads.q * d)?);
    let mut parts = s.parts(attn_decode_workspace(&s.dev, n, t, heads))?;
    let (keys, what) = (Keys::paged(&seqs, &positions), format!("T {t}{}", if normed { " normed" } else { "" }));
    s.call("attn_step", &what, cost::attn_step(n, heads, keys, normed, [dtype, type_of_pages]), |dev| {
        let pages = [k_pages.view_mut(), v_pages.view_mut()];
        attn_step(dev, new.rows(&mut to, at), pages, o.view_mut(), parts.view_mut(), heads)
    })?;
    let (Some([k_before, v_before]), Some([mut k_apart, mut v_apart])) = (before, apart) else { return Ok(()) };
    s.holds("o", &o, FLOOR, || {
        let rows = [&new.q.values[..], &new.k.values, &new.v.values];
        let norms = [0, 1].map(|i| new.norms.as_ref().map(|norms| &norms[i].values[..]));
        oracle::attn_step(rows, [&k_before.values, &v_before.values], norms, lens, heads, THETA, EPS as f64)
    });
    let mut to = new.to(s)?;
    s.exactly("o and pages: the bits of the ops one after another", |dev| {
        qk_rope_append(dev, new.rows(&mut to, at), [k_apart.view_mut(), v_apart.view_mut()], heads)?;
        let mut apart = dev.zeros(dtype, o.len())?;
        let mut none = dev.zeros(DType::F32, 0)?;
        attn_decode(dev, to.view(), k_apart.view(), v_apart.view(), at, apart.view_mut(), none.view_mut(), heads)?;
        let same = same_bits(dev, &k_apart, &k_pages)? && same_bits(dev, &v_apart, &v_pages)?;
        Ok(same
            && same_bits(dev, &apart, &o)?
            && k_pages.guard_intact()
            && v_pages.guard_intact()
            && parts.guard_intact())
    })
}

/// Keys and values of the rows before the last of each sequence, into their pages.
fn fill(s: &mut Stage, lens: &[usize], pages: [&mut Buffer; 2], at: Paged, heads: Heads) -> Result<[Tensor; 2]> {
    let rows = lens.iter().enumerate().flat_map(|(seq, len)| (0..len - 1).map(move |pos| (seq as i32, pos as i32)));
    let (seqs, positions): (Vec<i32>, Vec<i32>) = rows.unzip();
    let (seq, pos, len) = (s.dev.upload(&seqs)?, s.dev.upload(&positions)?, seqs.len() * heads.kv * heads.dim);
    let ([k_pages, v_pages], k, v) = (pages, s.input(len)?, s.input(len)?);
    let at = Paged { seq: seq.view(), pos: pos.view(), ..at };
    kv_append(&s.dev, k.buffer.view(), v.buffer.view(), at, k_pages.view_mut(), v_pages.view_mut(), heads)?;
    Ok([k, v])
}

fn copied(dev: &Device, x: &Buffer) -> Result<Buffer> {
    match x.dtype() {
        DType::Bf16 => dev.upload(&dev.download::<half::bf16>(x.view())?),
        _ => dev.upload(&dev.download::<f32>(x.view())?),
    }
}
