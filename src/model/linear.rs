//! A linear layer in both directions: the one place that knows whether it has a bias, an adapter, or weights that train. Layers
//! that read the same normed rows go together where none of them has an adapter.

use super::{Gradient, LayerIds, Linear, Weights};
use crate::device::{Buffer, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::bias::{bias_bwd, bias_fwd, bias_parts_len};
use crate::ops::embed::scale;
use crate::ops::gemm::{Store, gemm_nn, gemm_nt, gemm_tn};
use crate::ops::gemm_fused::{Normed, Projection, gemm_qkv, gemm_swiglu};
use crate::ops::norm::rmsnorm_fwd;
use crate::ops::swiglu::swiglu_fwd;

/// Scratch of a backward: sums of blocks of rows, and two of what an adapter makes of rows, `[N, r]`.
pub(super) struct Parts {
    pub sums: Buffer,
    pub low: [Buffer; 2],
}

/// `y = x W^T + b`, and what an adapter adds; x `[N, in]`, y `[N, out]`. The sum of a product begins at the bias, so it is
/// rounded once. `low`, of `[N, r]`, is scratch.
pub(super) fn linear_fwd(
    dev: &Device,
    w: &Weights,
    l: &Linear,
    x: View,
    mut y: ViewMut,
    low: &mut Buffer,
) -> Result<()> {
    let store = match l.bias {
        None => Store::Set,
        Some(bias) => {
            bias_fwd(dev, w.get(bias), y.reborrow())?;
            Store::Add
        }
    };
    product(dev, w, l, x, y, store, low)
}

/// `y += x W^T`, and what an adapter adds: what a layer without a bias adds to the residual stream.
pub(super) fn linear_add(dev: &Device, w: &Weights, l: &Linear, x: View, y: ViewMut, low: &mut Buffer) -> Result<()> {
    product(dev, w, l, x, y, Store::Add, low)
}

/// q, k, v `[N, ..]` of normed rows; `low`, of `[N, r]`, is scratch.
pub(super) fn linear_qkv(
    dev: &Device,
    w: &Weights,
    ids: &LayerIds,
    mut rows: Normed,
    to: [ViewMut; 3],
    low: &mut Buffer,
) -> Result<()> {
    let layers = [&ids.q, &ids.k, &ids.v];
    if layers.iter().any(|l| w.low_rank(l.weight).is_some()) {
        norm_rows(dev, &mut rows)?;
        return layers.into_iter().zip(to).try_for_each(|(l, to)| linear_fwd(dev, w, l, rows.h.view(), to, low));
    }
    let [q, k, v] = to;
    let part = |l: &Linear, to| Projection { weight: w.matrix(l.weight), bias: l.bias.map(|b| w.get(b)), to };
    gemm_qkv(dev, rows, [part(&ids.q, q), part(&ids.k, k), part(&ids.v, v)])
}

/// `s = silu(gate) up [N, F]` of normed rows; gate and up are made too, or, where nothing is kept, perhaps not.
pub(super) fn linear_swiglu(
    dev: &Device,
    w: &Weights,
    layers: [&Linear; 2],
    mut rows: Normed,
    mut pair: [ViewMut; 2],
    s: ViewMut,
    low: &mut Buffer,
) -> Result<()> {
    if layers.iter().any(|l| w.low_rank(l.weight).is_some()) {
        norm_rows(dev, &mut rows)?;
        for (l, to) in layers.into_iter().zip(&mut pair) {
            linear_fwd(dev, w, l, rows.h.view(), to.reborrow(), low)?;
        }
        let [gate, up] = &pair;
        return swiglu_fwd(dev, gate.view(), up.view(), s);
    }
    gemm_swiglu(dev, rows, layers.map(|l| w.matrix(l.weight)), pair, s)
}

fn norm_rows(dev: &Device, rows: &mut Normed) -> Result<()> {
    rmsnorm_fwd(dev, rows.x, rows.weight, rows.h.reborrow(), rows.rstd.reborrow(), rows.eps)
}

/// `y = x W^T` or `y += ` it, and what an adapter adds: `y += (x A^T) (s B)^T`.
fn product(
    dev: &Device,
    w: &Weights,
    l: &Linear,
    x: View,
    mut y: ViewMut,
    store: Store,
    low: &mut Buffer,
) -> Result<()> {
    let n = y.len() / l.n_out;
    gemm_nt(dev, x, w.matrix(l.weight), y.reborrow(), n, l.n_out, l.n_in, store)?;
    let Some(own) = w.low_rank(l.weight) else { return Ok(()) };
    let r = own.rank;
    gemm_nt(dev, x, own.a, low.at_mut(0..n * r), n, r, l.n_in, Store::Set)?;
    gemm_nt(dev, low.at(0..n * r), own.b, y, n, l.n_out, r, Store::Add)
}

/// The gradients: `dW += dy^T x`, `db += ` the sum of dy's rows, or those of an adapter's A and B; `dx = dy W`, or `dx += ` it,
/// and what the adapter adds. `dw` is laid out like what trains.
pub(super) fn linear_bwd(
    dev: &Device,
    w: &Weights,
    l: &Linear,
    [x, dy]: [View; 2],
    mut dx: ViewMut,
    dw: &mut dyn Gradient,
    parts: &mut Parts,
    store: Store,
) -> Result<()> {
    let n = dy.len() / l.n_out;
    if let Some(to) = w.gradient(dw, l.weight) {
        gemm_tn(dev, dy, x, to, l.n_out, l.n_in, n, Store::Add)?;
    }
    if let Some(to) = l.bias.and_then(|bias| w.gradient(dw, bias)) {
        bias_bwd(dev, dy, to, parts.sums.at_mut(0..bias_parts_len(n, l.n_out)))?;
    }
    gemm_nn(dev, dy, w.get(l.weight), dx.reborrow(), n, l.n_in, l.n_out, store)?;
    adapter_bwd(dev, w, l, [x, dy], dx, dw, &mut parts.low)
}

/// With `t = s x A^T` and `u = dy s B`: `dB += dy^T t`, `dA += u^T x`, `dx += u A`.
fn adapter_bwd(
    dev: &Device,
    w: &Weights,
    l: &Linear,
    [x, dy]: [View; 2],
    dx: ViewMut,
    dw: &mut dyn Gradient,
    [t, u]: &mut [Buffer; 2],
) -> Result<()> {
    let Some(own) = w.low_rank(l.weight) else { return Ok(()) };
    let (n, r, [at_a, at_b]) = (dy.len() / l.n_out, own.rank, own.at);
    // What is not scaled lies where u will.
    gemm_nt(dev, x, own.a, u.at_mut(0..n * r), n, r, l.n_in, Store::Set)?;
    scale(dev, u.at(0..n * r), t.at_mut(0..n * r), own.factor)?;
    gemm_tn(dev, dy, t.at(0..n * r), dw.part_mut(at_b), l.n_out, r, n, Store::Add)?;
    gemm_nn(dev, dy, own.b.rows, u.at_mut(0..n * r), n, r, l.n_out, Store::Set)?;
    gemm_tn(dev, u.at(0..n * r), x, dw.part_mut(at_a), r, l.n_in, n, Store::Add)?;
    gemm_nn(dev, u.at(0..n * r), own.a.rows, dx, n, l.n_in, r, Store::Add)
}
