//! Cases of norm and rotation of heads: with norms and without, one head of one pair, odd heads, more than a block takes, the
//! widest; packed, and over pages that lie backwards.

use super::{NewRows, Turn, cost, oracle, qk_rope_append, qk_rope_fwd};
use crate::device::{Buffer, DType, Device};
use crate::error::Result;
use crate::ops::attn::{CHUNK, Heads, Paged, kv_append, pages_len};
use crate::ops::case::{Floor, Stage, Tensor, same_bits};
use crate::ops::norm::rmsnorm_fwd;
use crate::ops::rope::{frequencies, rope_fwd, table};

const THETA: f64 = 1e4;
const EPS: f32 = 1e-6;
/// Positions that the angles reach.
const T: usize = 512;

const FLOOR: Floor = [1.9e-7, 4.8e-3];
const FLOOR_RSTD: Floor = [1.2e-7, 4.9e-7];

/// N, H, Hk, D.
const FEW: [[usize; 4]; 2] = [[29, 4, 2, 64], [5, 3, 1, 24]];
const ODD: [[usize; 4]; 5] = [[1, 1, 1, 2], [5, 3, 3, 6], [70, 16, 8, 32], [9, 9, 1, 128], [3, 2, 2, 256]];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    let model = |m: crate::ops::case::Dims| [64, 1, 4096].map(|n| [n, m.heads, m.kv_heads, m.head_dim]).into();
    for [n, q, kv, dim] in s.shapes(&FEW, &ODD, model) {
        for normed in [true, false] {
            let heads = Heads { q, kv, dim, scale: 1.0 };
            packed(s, n, heads, normed)?;
            paged(s, n, heads, normed)?;
        }
    }
    Ok(())
}

/// Queries or keys of a case: as they were projected, the norm's weight, and where they go.
struct Side {
    raw: Tensor,
    weight: Option<Tensor>,
    rstd: Buffer,
    to: Buffer,
}

impl Side {
    fn new(s: &mut Stage, n: usize, heads: usize, d: usize, normed: bool) -> Result<Side> {
        let raw = s.input(n * heads * d)?;
        let weight = normed.then(|| s.input(d)).transpose()?;
        let values: Vec<f32> = raw.values.iter().map(|x| *x as f32).collect();
        // Without norms they are turned where they are; a clock may turn anything.
        let to = if normed || s.times() { s.out(n * heads * d)? } else { s.tensor(&values, s.dtype)?.buffer };
        Ok(Side { raw, weight, rstd: s.out_f32(n * heads)?, to })
    }

    fn turn(&mut self) -> Turn<'_> {
        match &self.weight {
            None => Turn::InPlace(self.to.view_mut()),
            Some(weight) => Turn::Normed {
                raw: self.raw.buffer.view(),
                weight: weight.buffer.view(),
                rstd: Some(self.rstd.view_mut()),
                to: self.to.view_mut(),
            },
        }
    }

    fn values(&self) -> Option<&[f64]> {
        self.weight.as_ref().map(|w| &w.values[..])
    }

    /// What the ops make of it one after another.
    fn apart(&self, dev: &Device, positions: &Buffer, angles: &Buffer, [heads, d]: [usize; 2]) -> Result<[Buffer; 2]> {
        let (len, dtype) = (self.raw.buffer.len(), self.raw.buffer.dtype());
        let (mut x, mut rstd) = (dev.zeros(dtype, len)?, dev.zeros(DType::F32, len / d)?);
        match &self.weight {
            Some(w) => rmsnorm_fwd(dev, self.raw.buffer.view(), w.buffer.view(), x.view_mut(), rstd.view_mut(), EPS)?,
            None => crate::ops::embed::copy(dev, self.raw.buffer.view(), x.view_mut())?,
        }
        rope_fwd(dev, x.view_mut(), positions.view(), angles.view(), heads, d)?;
        Ok([x, rstd])
    }
}

fn packed(s: &mut Stage, n: usize, heads: Heads, normed: bool) -> Result<()> {
    if !s.wants(&["qk_rope_fwd"]) {
        return Ok(());
    }
    let (h, hk, d) = (heads.q, heads.kv, heads.dim);
    let positions: Vec<i32> = (0..n as i32).map(|i| i * 7 % T as i32).collect();
    let (on_device, angles) = (s.dev.upload(&positions)?, s.dev.upload(&table(T, &frequencies(d, THETA)))?);
    let (mut q, mut k) = (Side::new(s, n, h, d, normed)?, Side::new(s, n, hk, d, normed)?);
    let what = if normed { "normed" } else { "" };
    s.call("qk_rope_fwd", what, cost::qk_rope_fwd(n, heads, normed, s.dtype), |dev| {
        qk_rope_fwd(dev, q.turn(), k.turn(), on_device.view(), angles.view(), heads, EPS)
    })?;
    for (side, heads, name) in [(&q, h, "q"), (&k, hk, "k")] {
        s.holds(name, &side.to, FLOOR, || {
            oracle::qk_rope_fwd(&side.raw.values, side.values(), &positions, heads, THETA, EPS as f64)
        });
        if let Some(w) = &side.weight {
            let rstd = || crate::ops::norm::oracle::rmsnorm_fwd(&side.raw.values, &w.values, EPS as f64).1;
            s.holds(&format!("{name} rstd"), &side.rstd, FLOOR_RSTD, rstd);
        }
        s.exactly(&format!("{name}: the bits of the ops one after another"), |dev| {
            let [x, rstd] = side.apart(dev, &on_device, &angles, [heads, d])?;
            Ok(same_bits(dev, &x, &side.to)? && (!normed || same_bits(dev, &rstd, &side.rstd)?))
        })?;
    }
    Ok(())
}

/// Rows of a sequence that follow each other, then those of the next.
fn paged(s: &mut Stage, n: usize, heads: Heads, normed: bool) -> Result<()> {
    if !s.wants(&["qk_rope_append"]) {
        return Ok(());
    }
    let (h, hk, d) = (heads.q, heads.kv, heads.dim);
    let (each, max_pages) = (T - 3, T / CHUNK);
    let (seqs, positions): (Vec<i32>, Vec<i32>) = (0..n).map(|i| ((i / each) as i32, (3 + i % each) as i32)).unzip();
    let n_pages = n.div_ceil(each) * max_pages;
    let (seq, pos) = (s.dev.upload(&seqs)?, s.dev.upload(&positions)?);
    let pages = s.dev.upload(&(0..n_pages as i32).rev().collect::<Vec<i32>>())?;
    let angles = s.dev.upload(&table(T, &frequencies(d, THETA)))?;
    let at = Paged { seq: seq.view(), pos: pos.view(), table: pages.view(), max_pages, longest: T };
    let (mut q, k, v) = (Side::new(s, n, h, d, normed)?, Side::new(s, n, hk, d, normed)?, s.input(n * hk * d)?);
    let (len, dtype) = (pages_len(n_pages, heads), s.dev.factor_dtype(s.dtype));
    let (mut k_pages, mut v_pages) = (s.out_as(len, dtype)?, s.out_as(len, dtype)?);
    let what = if normed { "normed" } else { "" };
    s.call("qk_rope_append", what, cost::qk_rope_append(n, heads, normed, [s.dtype, dtype]), |dev| {
        let (raw, v, k_norm) = (k.raw.buffer.view(), v.buffer.view(), k.weight.as_ref().map(|w| w.buffer.view()));
        let rows = NewRows { q: q.turn(), k: raw, v, k_norm, at, table: angles.view(), eps: EPS };
        qk_rope_append(dev, rows, [k_pages.view_mut(), v_pages.view_mut()], heads)
    })?;
    let want = || {
        let norms = [q.values(), k.values()];
        oracle::qk_rope_append([&q.raw.values, &k.raw.values], norms, &positions, [h, hk], THETA, EPS as f64)
    };
    s.holds("q", &q.to, FLOOR, || want()[0].clone());
    s.exactly("q, keys and values: the bits of the ops one after another", |dev| {
        let [x, _] = q.apart(dev, &pos, &angles, [h, d])?;
        let [turned, _] = k.apart(dev, &pos, &angles, [hk, d])?;
        let (mut k_apart, mut v_apart) = (empty(dev, &k_pages)?, empty(dev, &v_pages)?);
        kv_append(dev, turned.view(), v.buffer.view(), at, k_apart.view_mut(), v_apart.view_mut(), heads)?;
        let pages = same_bits(dev, &k_apart, &k_pages)? && same_bits(dev, &v_apart, &v_pages)?;
        Ok(same_bits(dev, &x, &q.to)? && pages && k_pages.guard_intact() && v_pages.guard_intact())
    })
}

/// As many pages, full of NaN.
fn empty(dev: &Device, pages: &Buffer) -> Result<Buffer> {
    match pages.dtype() {
        DType::Bf16 => dev.upload(&vec![half::bf16::NAN; pages.len()]),
        _ => dev.upload(&vec![f32::NAN; pages.len()]),
    }
}
