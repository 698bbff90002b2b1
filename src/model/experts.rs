//! A layer's mixture of experts, forward and backward: two lists, read side by side.
//!
//! Tokens are routed, their rows put in the order of their experts, multiplied by groups, and added up again with their
//! gates (`ops::moe`). A token's bits do not depend on which tokens share its experts, so a rollout and its training choose
//! the same experts and compute the same numbers.

use super::activations::{Grads, LayerActs};
use super::linear::linear_bwd;
use super::{Gradient, Grouped, Linear, ModelConfig, Weights};
use crate::device::{DType, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::embed::copy;
use crate::ops::gemm::{Store, gemm_nt};
use crate::ops::gemm_grouped::{gemm_grouped_nn, gemm_grouped_nt, gemm_grouped_tn};
use crate::ops::moe::{
    moe_combine_bwd, moe_combine_fwd, moe_gather_bwd, moe_gather_fwd, moe_sort, route_balance_bwd, route_balance_fwd,
    route_topk_bwd, route_topk_fwd,
};
use crate::ops::swiglu::{swiglu_bwd, swiglu_fwd};

/// The router's projection, and the experts' three.
#[derive(Clone, Copy)]
pub(super) struct ExpertIds<'a> {
    pub router: &'a Linear,
    pub gate: &'a Grouped,
    pub up: &'a Grouped,
    pub down: &'a Grouped,
}

/// Sizes of a call.
struct Sizes {
    c: usize,
    f: usize,
    e: usize,
    a: usize,
    r: usize,
    normalise: bool,
}

fn sizes(config: &ModelConfig, n: usize) -> Sizes {
    let (r, f) = config.mlp_rows(n);
    let (e, a, normalise) = config.experts.map_or((0, 1, false), |x| (x.count, x.active, x.normalise));
    Sizes { c: config.hidden_size, f, e, a, r, normalise }
}

/// Residual stream `+=` the experts' outputs of the normed residual stream, `a.mlp_h [N, C]`.
pub(super) fn experts_fwd(
    dev: &Device,
    w: &Weights,
    ids: ExpertIds,
    x: ViewMut,
    acts: &mut LayerActs,
    n: usize,
) -> Result<()> {
    let Sizes { c, f, e, a, r, normalise } = sizes(&w.config, n);
    let Some(m) = &mut acts.experts else { return Ok(()) };
    let h = acts.mlp_h.at(0..n * c);
    gemm_nt(dev, h, w.matrix(ids.router.weight), m.logits.at_mut(0..n * e), n, e, c, Store::Set)?;
    let (logits, probs) = (m.logits.at(0..n * e), m.probs.at_mut(0..n * e));
    route_topk_fwd(dev, logits, probs, m.experts.at_mut(0..r), m.gates.at_mut(0..r), [e, a], normalise)?;
    let (order, place) = (m.order.at_mut(0..r), m.place.at_mut(0..r));
    moe_sort(dev, m.experts.at(0..r), order, place, m.offsets.view_mut())?;
    moe_gather_fwd(dev, h, m.order.at(0..r), m.xs.at_mut(0..r * c), c)?;
    let (xs, at) = (m.xs.at(0..r * c), m.offsets.view());
    gemm_grouped_nt(dev, xs, w.group(ids.gate), acts.gate.at_mut(0..r * f), at, f, c, Store::Set)?;
    gemm_grouped_nt(dev, xs, w.group(ids.up), acts.up.at_mut(0..r * f), at, f, c, Store::Set)?;
    swiglu_fwd(dev, acts.gate.at(0..r * f), acts.up.at(0..r * f), acts.s.at_mut(0..r * f))?;
    gemm_grouped_nt(dev, acts.s.at(0..r * f), w.group(ids.down), m.out.at_mut(0..r * c), at, c, f, Store::Set)?;
    moe_combine_fwd(dev, m.out.at(0..r * c), m.gates.at(0..r), m.place.at(0..r), x, c)
}

/// Layer l: `g.dh = ` the gradient of `mlp_h [N, C]`, and `dw += ` those of the layer's weights, if they train; `balance` is the weight of the
/// load-balancing loss in the whole loss.
pub(super) fn experts_bwd(
    dev: &Device,
    w: &Weights,
    ids: ExpertIds,
    acts: &LayerActs,
    g: &mut Grads,
    dw: &mut dyn Gradient,
    [l, n]: [usize; 2],
    balance: f32,
) -> Result<()> {
    let Sizes { c, f, e, a, r, normalise } = sizes(&w.config, n);
    let (Some(m), Some(d)) = (&acts.experts, &mut g.experts) else { return Ok(()) };
    let (at, place) = (m.offsets.view(), m.place.at(0..r));
    let (dx, out, gates) = (g.dx.at(0..n * c), m.out.at(0..r * c), m.gates.at(0..r));
    let (dout, dgates) = (d.dout.at_mut(0..r * c), d.dgates.at_mut(0..r));
    moe_combine_bwd(dev, dx, out, gates, [m.order.at(0..r), place], dout, dgates, c)?;
    let (dout, s) = (d.dout.at(0..r * c), acts.s.at(0..r * f));
    if let Some(to) = w.group_gradient(dw, ids.down) {
        gemm_grouped_tn(dev, dout, s, to, at, c, f, Store::Add)?;
    }
    gemm_grouped_nn(dev, dout, w.group(ids.down).rows, g.ds.at_mut(0..r * f), at, f, c, Store::Set)?;
    let (gate, up, ds) = (acts.gate.at(0..r * f), acts.up.at(0..r * f), g.ds.at(0..r * f));
    swiglu_bwd(dev, ds, gate, up, g.dgate.at_mut(0..r * f), g.dup.at_mut(0..r * f))?;
    let (dgate, dup, xs) = (g.dgate.at(0..r * f), g.dup.at(0..r * f), m.xs.at(0..r * c));
    if let Some(to) = w.group_gradient(dw, ids.gate) {
        gemm_grouped_tn(dev, dgate, xs, to, at, f, c, Store::Add)?;
    }
    if let Some(to) = w.group_gradient(dw, ids.up) {
        gemm_grouped_tn(dev, dup, xs, to, at, f, c, Store::Add)?;
    }
    gemm_grouped_nn(dev, dgate, w.group(ids.gate).rows, d.dxs.at_mut(0..r * c), at, c, f, Store::Set)?;
    gemm_grouped_nn(dev, dup, w.group(ids.up).rows, d.dxs.at_mut(0..r * c), at, c, f, Store::Add)?;
    moe_gather_bwd(dev, d.dxs.at(0..r * c), place, g.dh.at_mut(0..n * c), c, Store::Set)?;
    let (probs, experts) = (m.probs.at(0..n * e), m.experts.at(0..r));
    let dlogits = d.dlogits.at_mut(0..n * e);
    route_topk_bwd(dev, d.dgates.at(0..r), probs, experts, gates, dlogits, [e, a], normalise)?;
    let counts = l * e..(l + 1) * e;
    route_balance_fwd(dev, probs, at, d.counts.at_mut(counts.clone()), d.mean.view_mut(), d.loss.view_mut())?;
    if balance != 0.0 {
        route_balance_bwd(dev, probs, d.counts.at(counts), d.dlogits.at_mut(0..n * e), balance)?;
    }
    let dlogits: View = if w.config.compute == DType::Bf16 {
        copy(dev, d.dlogits.at(0..n * e), d.dlogits_narrow.at_mut(0..n * e))?;
        d.dlogits_narrow.at(0..n * e)
    } else {
        d.dlogits.at(0..n * e)
    };
    let h = acts.mlp_h.at(0..n * c);
    linear_bwd(dev, w, ids.router, [h, dlogits], g.dh.at_mut(0..n * c), dw, &mut g.parts, Store::Add)
}
