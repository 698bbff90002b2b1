//! The two groups of products that begin a half of a layer, each in as few launches as there can be: the norm of the residual
//! stream, then queries, keys and values of it, or gate and up and what SwiGLU makes of them.
//!
//! A sum is the chain of [`gemm_nt`](super::gemm::gemm_nt) on its row and its column, from its bias on where there is one, and
//! every rounding is that of the ops one after another, [`rmsnorm_fwd`](super::norm::rmsnorm_fwd),
//! [`bias_fwd`](super::bias::bias_fwd), [`gemm_nt`](super::gemm::gemm_nt), [`swiglu_fwd`](super::swiglu::swiglu_fwd): the same
//! bits.

pub mod cases;
mod cpu;
pub mod gpu;
pub mod oracle;

use super::gemm::{Matrix, panels_len};
use super::want;
use crate::device::{Device, View, ViewMut};
use crate::error::Result;

/// Rows that are normed before they are multiplied, `h = x rstd w`: see [`rmsnorm_fwd`](super::norm::rmsnorm_fwd).
pub struct Normed<'a> {
    /// `[M, K]`
    pub x: View<'a>,
    /// The norm's weight `[K]`.
    pub weight: View<'a>,
    /// What it adds to the mean of squares.
    pub eps: f32,
    /// Where h goes `[M, K]`, if anywhere; on the CPU it may be bf16 (see [`Device::factor_dtype`]).
    pub h: ViewMut<'a>,
    /// Where `1 / rms` goes `[M]`, if anywhere.
    pub rstd: ViewMut<'a>,
    /// Whether h and rstd are read afterwards, and gate and up. Else they may be left as they are.
    pub keep: bool,
}

/// One of the products: `to [M, N] = h weight^T + bias`.
pub struct Projection<'a> {
    /// `[N, K]`
    pub weight: Matrix<'a>,
    /// `[N]`
    pub bias: Option<View<'a>>,
    /// `[M, N]`
    pub to: ViewMut<'a>,
}

/// Queries, keys and values, of as many columns each as their `to` has room for: keys and values of as many.
///
/// Source: the norm as [`rmsnorm_fwd`](super::norm::rmsnorm_fwd); Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.
pub fn gemm_qkv(dev: &Device, rows: Normed, parts: [Projection; 3]) -> Result<()> {
    let op = "gemm_qkv";
    let [m, k] = rows.check(op)?;
    let [nq, nk, nv] = parts.each_ref().map(|part| columns(part.weight, k));
    want(op, "as many values as keys", nv, nk)?;
    for (part, n) in parts.iter().zip([nq, nk, nv]) {
        check(dev, op, part.weight, [n, k])?;
        want(op, "to [M, N]", part.to.len(), m * n)?;
        want(op, "bias [N]", part.bias.map_or(n, |bias| bias.len()), n)?;
    }
    let _span = dev.op("gemm_qkv", || cost::gemm_qkv([m, nq + 2 * nk, k], &rows));
    match dev {
        Device::Cpu(cpu) => cpu::gemm_qkv(cpu, rows, parts, [m, k]),
        Device::Gpu(gpu) => gpu::gemm_qkv(gpu, rows, parts, None)?,
    }
    Ok(())
}

/// `s = silu(gate) up` of `gate, up = h wg^T, h wu^T`; wg, wu `[N, K]`, gate, up, s `[M, N]`. Gate and up may be left as they are
/// where they are not kept; on the CPU s may be bf16.
///
/// Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
pub fn gemm_swiglu(
    dev: &Device,
    rows: Normed,
    weights: [Matrix; 2],
    [gate, up]: [ViewMut; 2],
    s: ViewMut,
) -> Result<()> {
    let op = "gemm_swiglu";
    let [m, k] = rows.check(op)?;
    let n = columns(weights[0], k);
    weights.iter().try_for_each(|w| check(dev, op, *w, [n, k]))?;
    for (rule, len) in [("s [M, N]", s.len()), ("gate [M, N]", gate.len()), ("up [M, N]", up.len())] {
        want(op, rule, len, m * n)?;
    }
    let _span = dev.op("gemm_swiglu", || cost::gemm_swiglu([m, n, k], &rows, s.dtype()));
    match dev {
        Device::Cpu(cpu) => cpu::gemm_swiglu(cpu, rows, weights, [gate, up], s, [m, n, k]),
        Device::Gpu(gpu) => gpu::gemm_swiglu(gpu, rows, weights, [gate, up], s, None)?,
    }
    Ok(())
}

impl Normed<'_> {
    /// M and K.
    fn check(&self, op: &'static str) -> Result<[usize; 2]> {
        let [m, k] = [self.rstd.len(), self.weight.len()];
        want(op, "x [M, K]", self.x.len(), m * k)?;
        want(op, "h [M, K]", self.h.len(), m * k)?;
        Ok([m, k])
    }
}

/// Columns N of a product with a weight `[N, K]`.
fn columns(w: Matrix, k: usize) -> usize {
    w.rows.len() / k.max(1)
}

fn check(dev: &Device, op: &'static str, w: Matrix, [n, k]: [usize; 2]) -> Result<()> {
    want(op, "a weight has N K elements", w.rows.len(), n * k)?;
    let panels = panels_len(dev, n, k, w.rows.dtype());
    want(op, "panels of a weight", w.panels.map_or(panels, |panels| panels.len()), panels)
}

/// What the ops must do at least: the `Cost` lines of their kernels, in code; how they count: [`crate::ops::cost`].
pub mod cost {
    use super::Normed;
    use crate::device::DType;
    use crate::device::record::Cost;
    use crate::ops::cost;

    /// Bytes of the norm of M rows of K; kept, h and rstd are written.
    fn norm([m, k]: [usize; 2], rows: &Normed) -> usize {
        let kept = if rows.keep { m * k * rows.h.dtype().size() + 4 * m } else { 0 };
        (m * k + k) * rows.x.dtype().size() + kept
    }

    /// Products of N columns in all, of weights in the model's type.
    pub fn gemm_qkv([m, n, k]: [usize; 3], rows: &Normed) -> Cost {
        let size = rows.x.dtype().size();
        cost(2 * m * n * k, norm([m, k], rows) + (n * k + m * n) * size, "M N K", [m, n, k])
    }

    /// Two products of N columns; kept, both are written.
    pub fn gemm_swiglu([m, n, k]: [usize; 3], rows: &Normed, s: DType) -> Cost {
        let size = rows.x.dtype().size();
        let kept = if rows.keep { 2 * m * n * size } else { 0 };
        cost(4 * m * n * k, norm([m, k], rows) + 2 * n * k * size + m * n * s.size() + kept, "M N K", [m, n, k])
    }
}
