//! Cases of the products that begin a half of a layer: few rows and many, kept and not, with biases and without, ones and odd
//! sizes, a long sum; by every kernel that a device has; weights in panels where the device has any.

use super::{Normed, Projection, cost, gemm_qkv, gemm_swiglu, gpu, oracle};
use crate::device::{Buffer, DType, Device};
use crate::error::Result;
use crate::ops::bias::bias_fwd;
use crate::ops::case::{Dims, Floor, Stage, Tensor, same_bits};
use crate::ops::gemm::{Matrix, Store, gemm_nt, gemm_pack, panels_len};
use crate::ops::norm::rmsnorm_fwd;
use crate::ops::swiglu::swiglu_fwd;

const EPS: f32 = 1e-6;

const FLOOR: Floor = [2.5e-6, 5.1e-3];
/// silu and a product of what was rounded.
const FLOOR_S: Floor = [1.7e-6, 8.6e-3];

/// M, Nq, Nkv, K.
const FEW: [[usize; 4]; 2] = [[5, 96, 40, 72], [72, 104, 24, 72]];
const ODD: [[usize; 4]; 5] = [[1, 1, 1, 1], [1, 65, 3, 33], [37, 1, 2, 19], [16, 130, 66, 520], [9, 33, 17, 3000]];
/// More than one of the largest tile, in lines of whole vectors, as Hopper's kernels want them; few rows for those that norm.
const LARGE: [[usize; 4]; 2] = [[136, 264, 136, 72], [19, 72, 40, 200]];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    let qkv = |m: Dims| [m.heads * m.head_dim, m.kv_heads * m.head_dim, m.width];
    let rows = [16, 1, 4, 64, 4096];
    for [m, n_q, n_kv, k] in s.shapes(&FEW, &ODD, |d| rows.map(|r| [r, qkv(d)[0], qkv(d)[1], qkv(d)[2]]).into()) {
        for (keep, biased) in [(false, true), (true, false)] {
            qkv_of(s, [m, n_q, n_kv, k], keep, biased, None)?;
        }
    }
    for [m, n, _, k] in s.shapes(&FEW, &ODD, |d| rows.map(|r| [r, d.mlp, 0, d.width]).into()) {
        for keep in [false, true] {
            swiglu_of(s, [m, n, k], keep, None)?;
        }
    }
    every_way(s)
}

/// By every kernel, whichever would be chosen.
fn every_way(s: &mut Stage) -> Result<()> {
    let (false, Device::Gpu(on)) = (s.times(), s.dev.clone()) else { return Ok(()) };
    for way in gpu::QKV.ways(s.dtype, on.hopper()) {
        LARGE.iter().try_for_each(|dims| qkv_of(s, *dims, false, true, Some(way)))?;
    }
    for way in gpu::SWIGLU.ways(s.dtype, on.hopper()) {
        // Those that norm rows on the way keep nothing.
        for keep in [false, true].into_iter().take(if way.normed { 1 } else { 2 }) {
            LARGE.iter().try_for_each(|[m, n, _, k]| swiglu_of(s, [*m, *n, *k], keep, Some(way)))?;
        }
    }
    Ok(())
}

/// A weight `[N, K]`, as it is and in panels.
struct Weight {
    rows: Tensor,
    panels: Buffer,
}

impl Weight {
    fn new(s: &mut Stage, [n, k]: [usize; 2]) -> Result<Weight> {
        let rows = s.input(n * k)?;
        let mut panels = s.dev.zeros(DType::F32, panels_len(&s.dev, n, k, s.dtype))?;
        gemm_pack(&s.dev, rows.buffer.view(), panels.view_mut(), n, k)?;
        Ok(Weight { rows, panels })
    }

    fn matrix(&self) -> Matrix<'_> {
        let panels = (!self.panels.is_empty()).then(|| self.panels.view());
        Matrix { rows: self.rows.buffer.view(), panels }
    }
}

/// Rows and their norm.
struct Rows {
    x: Tensor,
    weight: Tensor,
    h: Buffer,
    rstd: Buffer,
}

impl Rows {
    fn new(s: &mut Stage, [m, k]: [usize; 2]) -> Result<Rows> {
        let h = s.out_as(m * k, s.dev.factor_dtype(s.dtype))?;
        Ok(Rows { x: s.input(m * k)?, weight: s.input(k)?, h, rstd: s.out_f32(m)? })
    }

    fn normed(&mut self, keep: bool) -> Normed<'_> {
        let (h, rstd) = (self.h.view_mut(), self.rstd.view_mut());
        Normed { x: self.x.buffer.view(), weight: self.weight.buffer.view(), eps: EPS, h, rstd, keep }
    }

    /// h and rstd by the op of their own.
    fn apart(&self, dev: &Device) -> Result<[Buffer; 2]> {
        let (mut h, mut rstd) = (dev.zeros(self.h.dtype(), self.h.len())?, dev.zeros(DType::F32, self.rstd.len())?);
        rmsnorm_fwd(dev, self.x.buffer.view(), self.weight.buffer.view(), h.view_mut(), rstd.view_mut(), EPS)?;
        Ok([h, rstd])
    }

    /// Whether what was kept is what the op of its own has.
    fn are(&self, dev: &Device, [h, rstd]: &[Buffer; 2], keep: bool) -> Result<bool> {
        let guards = self.h.guard_intact() && self.rstd.guard_intact();
        Ok(guards && (!keep || same_bits(dev, h, &self.h)? && same_bits(dev, rstd, &self.rstd)?))
    }
}

fn qkv_of(s: &mut Stage, [m, n_q, n_kv, k]: [usize; 4], keep: bool, biased: bool, way: Option<gpu::Way>) -> Result<()> {
    if !s.wants(&["gemm_qkv"]) {
        return Ok(());
    }
    let columns = [n_q, n_kv, n_kv];
    let mut rows = Rows::new(s, [m, k])?;
    let (mut weights, mut biases, mut outs) = (vec![], vec![], vec![]);
    for n in columns {
        weights.push(Weight::new(s, [n, k])?);
        biases.push(s.input(n)?);
        outs.push(s.out(m * n)?);
    }
    let bias = |i: usize| biased.then(|| biases[i].buffer.view());
    let cost = cost::gemm_qkv([m, n_q + 2 * n_kv, k], &rows.normed(keep));
    s.call("gemm_qkv", &what(keep, way), cost, |dev| {
        let mut to = outs.iter_mut();
        let parts = [0, 1, 2]
            .map(|i| Some(Projection { weight: weights[i].matrix(), bias: bias(i), to: to.next()?.view_mut() }));
        let [Some(q), Some(k), Some(v)] = parts else { return Ok(()) };
        match (dev, way) {
            (Device::Gpu(gpu), Some(_)) => gpu::gemm_qkv(gpu, rows.normed(keep), [q, k, v], way),
            _ => gemm_qkv(dev, rows.normed(keep), [q, k, v]),
        }
    })?;
    let parts = |i: usize| (&weights[i].rows.values[..], biased.then_some(&biases[i].values[..]));
    let want = || oracle::gemm_qkv(&rows.x.values, &rows.weight.values, EPS as f64, &[parts(0), parts(1), parts(2)]);
    for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
        s.holds(name, &outs[i], FLOOR, || want().swap_remove(i));
    }
    s.exactly("the bits of the ops one after another", |dev| {
        let apart = rows.apart(dev)?;
        let mut same = rows.are(dev, &apart, keep)?;
        for (i, n) in columns.into_iter().enumerate() {
            let mut to = dev.zeros(outs[i].dtype(), m * n)?;
            if let Some(bias) = bias(i) {
                bias_fwd(dev, bias, to.view_mut())?;
            }
            let store = if biased { Store::Add } else { Store::Set };
            gemm_nt(dev, apart[0].view(), weights[i].matrix(), to.view_mut(), m, n, k, store)?;
            same &= same_bits(dev, &to, &outs[i])?;
        }
        Ok(same)
    })
}

fn swiglu_of(s: &mut Stage, [m, n, k]: [usize; 3], keep: bool, way: Option<gpu::Way>) -> Result<()> {
    if !s.wants(&["gemm_swiglu"]) {
        return Ok(());
    }
    let (mut rows, weights) = (Rows::new(s, [m, k])?, [Weight::new(s, [n, k])?, Weight::new(s, [n, k])?]);
    let [mut gate, mut up, mut out] = [s.out(m * n)?, s.out(m * n)?, s.out_as(m * n, s.dev.factor_dtype(s.dtype))?];
    let cost = cost::gemm_swiglu([m, n, k], &rows.normed(keep), out.dtype());
    s.call("gemm_swiglu", &what(keep, way), cost, |dev| {
        let (pair, weights) = ([gate.view_mut(), up.view_mut()], weights.each_ref().map(Weight::matrix));
        match (dev, way) {
            (Device::Gpu(gpu), Some(_)) => gpu::gemm_swiglu(gpu, rows.normed(keep), weights, pair, out.view_mut(), way),
            _ => gemm_swiglu(dev, rows.normed(keep), weights, pair, out.view_mut()),
        }
    })?;
    let factors = weights.each_ref().map(|w| &w.rows.values[..]);
    let want = || oracle::gemm_swiglu(&rows.x.values, &rows.weight.values, EPS as f64, factors);
    s.holds("s", &out, FLOOR_S, || want()[2].clone());
    if keep {
        s.holds("gate", &gate, FLOOR, || want()[0].clone());
        s.holds("up", &up, FLOOR, || want()[1].clone());
    }
    s.exactly("the bits of the ops one after another", |dev| {
        let apart = rows.apart(dev)?;
        let mut pair = [dev.zeros(gate.dtype(), m * n)?, dev.zeros(gate.dtype(), m * n)?];
        for (to, weight) in pair.iter_mut().zip(&weights) {
            gemm_nt(dev, apart[0].view(), weight.matrix(), to.view_mut(), m, n, k, Store::Set)?;
        }
        let mut s = dev.zeros(out.dtype(), m * n)?;
        swiglu_fwd(dev, pair[0].view(), pair[1].view(), s.view_mut())?;
        let kept = !keep || same_bits(dev, &pair[0], &gate)? && same_bits(dev, &pair[1], &up)?;
        let guards = gate.guard_intact() && up.guard_intact();
        Ok(kept && guards && rows.are(dev, &apart, keep)? && same_bits(dev, &s, &out)?)
    })
}

/// What the shape does not say.
fn what(keep: bool, way: Option<gpu::Way>) -> String {
    let kept = if keep { "kept" } else { "" };
    way.map_or(kept.into(), |way| format!("{} {kept}", way.kernel))
}
