//! A layer's mixture of experts, forward and backward: two lists, read side by side.
//!
//! Tokens are routed, their rows put in the order of their experts, multiplied by groups, and added up again with their
//! gates (`ops::moe`). A token's bits do not depend on which tokens share its experts, so a rollout and its training choose
//! the same experts and compute the same numbers. Where experts are spread over ranks ([`super::spread`]) the rows go to
//! them in between, and each rank's are multiplied apart.

use super::activations::{Grads, LayerActs};
use super::expert_acts::{ExpertActs, ExpertGrads, Guests, Mid, MidGrads};
use super::linear::linear_bwd;
use super::spread::Spread;
use super::{Gradient, Grouped, Linear, Mlp, ModelConfig, Weights};
use crate::device::{Buffer, DType, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::embed::copy;
use crate::ops::gemm::{Store, gemm_nt};
use crate::ops::gemm_grouped::{gemm_grouped_nn, gemm_grouped_nt, gemm_grouped_tn};
use crate::ops::moe::{
    moe_combine_bwd, moe_combine_fwd, moe_gather_bwd, moe_gather_fwd, moe_sort, route_balance_bwd, route_balance_fwd,
    route_topk_bwd, route_topk_fwd,
};
use crate::ops::swiglu::{swiglu_bwd, swiglu_fwd};
use std::ops::Range;

/// The router's projection, and the experts' three.
#[derive(Clone, Copy)]
pub(super) struct ExpertIds<'a> {
    pub router: &'a Linear,
    pub gate: &'a Grouped,
    pub up: &'a Grouped,
    pub down: &'a Grouped,
}

impl ExpertIds<'_> {
    /// Those of a layer that has experts.
    pub(super) fn of(mlp: &Mlp) -> Option<ExpertIds<'_>> {
        match mlp {
            Mlp::Dense { .. } => None,
            Mlp::Experts { router, gate, up, down } => Some(ExpertIds { router, gate, up, down }),
        }
    }
}

/// Whose experts are whose, where ranks go through a layer in step and they are spread; and the room for other ranks' rows.
pub(super) struct Away<'a> {
    pub spread: Option<&'a Spread>,
    pub guests: Option<&'a mut Guests>,
}

impl Away<'_> {
    /// All experts are here.
    pub(super) const NONE: Away<'static> = Away { spread: None, guests: None };
}

/// Sizes of a call.
struct Sizes {
    c: usize,
    e: usize,
    a: usize,
    r: usize,
    normalise: bool,
}

fn sizes(config: &ModelConfig, n: usize) -> Sizes {
    let (e, a, normalise) = config.experts.map_or((0, 1, false), |x| (x.count, x.active, x.normalise));
    Sizes { c: config.hidden_size, e, a, r: config.mlp_rows(n).0, normalise }
}

/// Rows of experts that are here.
struct Rows<'a> {
    /// Those experts.
    experts: Range<usize>,
    /// Where the rows of each begin among these: `[E + 1]`.
    at: View<'a>,
    /// Where these lie in the buffers.
    rows: Range<usize>,
}

impl Rows<'_> {
    /// Their elements, of so many each.
    fn of(&self, width: usize) -> Range<usize> {
        self.rows.start * width..self.rows.end * width
    }
}

/// Layer l, residual stream `+=` the experts' outputs of the normed residual stream, `a.mlp_h [N, C]`.
pub(super) fn experts_fwd(
    dev: &Device,
    w: &Weights,
    ids: ExpertIds,
    x: ViewMut,
    acts: &mut LayerActs,
    [l, n]: [usize; 2],
    away: Away,
) -> Result<()> {
    let Sizes { c, e, a, r, normalise } = sizes(&w.config, n);
    let Some(m) = &mut acts.experts else { return Ok(()) };
    let h = acts.mlp_h.at(0..n * c);
    gemm_nt(dev, h, w.matrix(ids.router.weight), m.logits.at_mut(0..n * e), n, e, c, Store::Set)?;
    let (logits, probs) = (m.logits.at(0..n * e), m.probs.at_mut(0..n * e));
    route_topk_fwd(dev, logits, probs, m.experts.at_mut(0..r), m.gates.at_mut(0..r), [e, a], normalise)?;
    let (order, place) = (m.order.at_mut(0..r), m.place.at_mut(0..r));
    moe_sort(dev, m.experts.at(0..r), order, place, m.offsets.view_mut())?;
    moe_gather_fwd(dev, h, [m.order.at(0..r), m.place.at(0..r)], m.xs.at_mut(0..r * c), c)?;
    match away {
        Away { spread: Some(spread), guests: Some(guests) } => spread_fwd(dev, w, ids, (spread, guests), m, [l, r])?,
        Away { guests, .. } => {
            let rows = &Rows { experts: 0..e, at: m.offsets.view(), rows: 0..r };
            let mid = guests.map_or(&mut m.mid, Guests::taken);
            mid_fwd(dev, w, ids, rows, &m.xs, mid)?;
            down_fwd(dev, w, ids, rows, mid, &mut m.out)?;
        }
    }
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
    away: Away,
) -> Result<()> {
    let Sizes { c, e, a, r, normalise } = sizes(&w.config, n);
    let (Some(m), Some(d)) = (&acts.experts, &mut g.experts) else { return Ok(()) };
    let (at, place) = (m.offsets.view(), m.place.at(0..r));
    let (dx, out, gates) = (g.dx.at(0..n * c), m.out.at(0..r * c), m.gates.at(0..r));
    let (dout, dgates) = (d.dout.at_mut(0..r * c), d.dgates.at_mut(0..r));
    moe_combine_bwd(dev, dx, out, gates, [m.order.at(0..r), place], dout, dgates, c)?;
    match away {
        Away { spread: Some(spread), guests: Some(guests) } => spread_bwd(dev, w, ids, (spread, guests), m, d, dw, l)?,
        Away { .. } => {
            let rows = &Rows { experts: 0..e, at, rows: 0..r };
            down_bwd(dev, w, ids, rows, &d.dout, &m.mid, &mut d.mid, dw)?;
            mid_bwd(dev, w, ids, rows, &m.xs, &d.mid, &mut d.dxs, dw)?;
        }
    }
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

/// Layer l: `m.out = ` what the experts make of the rows `m.xs [r, C]`, wherever they are. All ranks come to this together, those
/// without a batch with no rows.
pub(super) fn spread_fwd(
    dev: &Device,
    w: &Weights,
    ids: ExpertIds,
    (spread, guests): (&Spread, &mut Guests),
    m: &mut ExpertActs,
    [l, r]: [usize; 2],
) -> Result<()> {
    let c = w.config.hidden_size;
    m.told = spread.tell(dev, m.offsets.view(), r)?;
    let trips = spread.trips(&m.told, guests.rows);
    for trip in &trips {
        guests.sent[0] += spread.send(dev, trip, (&m.xs, c), &mut guests.xs)?;
        for rank in trip.of.clone() {
            let at = spread.starts_of(rank);
            dev.write(guests.starts.at_mut(at.clone()), &spread.starts(&m.told, rank));
            let rows = &Rows { experts: spread.own(), at: guests.starts.at(at), rows: trip.here[rank].clone() };
            mid_fwd(dev, w, ids, rows, &guests.xs, &mut guests.mid)?;
            down_fwd(dev, w, ids, rows, &guests.mid, &mut guests.back)?;
        }
        guests.sent[1] += spread.send_back(dev, trip, (&guests.back, c), &mut m.out)?;
    }
    guests.holds = (trips.len() == 1).then_some(l);
    Ok(())
}

/// Layer l: `d.dxs = ` the gradient of the rows `m.xs`, from that of what the experts made of them, `d.dout`; and `dw += ` those
/// of this rank's experts, each rank's rows apart. All ranks come to this together. Rows that did not all stay here since the
/// forward come again, and what stands between the products is made again.
pub(super) fn spread_bwd(
    dev: &Device,
    w: &Weights,
    ids: ExpertIds,
    (spread, guests): (&Spread, &mut Guests),
    m: &ExpertActs,
    d: &mut ExpertGrads,
    dw: &mut dyn Gradient,
    l: usize,
) -> Result<()> {
    let (c, again) = (w.config.hidden_size, guests.holds != Some(l));
    for trip in &spread.trips(&m.told, guests.rows) {
        if again {
            guests.sent[0] += spread.send(dev, trip, (&m.xs, c), &mut guests.xs)?;
        }
        guests.sent[0] += spread.send(dev, trip, (&d.dout, c), &mut guests.dout)?;
        for rank in trip.of.clone() {
            let at = spread.starts_of(rank);
            dev.write(guests.starts.at_mut(at.clone()), &spread.starts(&m.told, rank));
            let rows = &Rows { experts: spread.own(), at: guests.starts.at(at), rows: trip.here[rank].clone() };
            if again {
                mid_fwd(dev, w, ids, rows, &guests.xs, &mut guests.mid)?;
            }
            dw.begins_rows_of(dev, rank)?;
            down_bwd(dev, w, ids, rows, &guests.dout, &guests.mid, &mut d.mid, dw)?;
            mid_bwd(dev, w, ids, rows, &guests.xs, &d.mid, &mut guests.back, dw)?;
            dw.ends_rows_of(dev, rank)?;
        }
        guests.sent[1] += spread.send_back(dev, trip, (&guests.back, c), &mut d.dxs)?;
    }
    Ok(())
}

/// `mid.s = swiglu(xs gate^T, xs up^T)`; xs `[R, C]`, s `[R, F]`.
fn mid_fwd(dev: &Device, w: &Weights, ids: ExpertIds, rows: &Rows, xs: &Buffer, mid: &mut Mid) -> Result<()> {
    let (c, f) = (w.config.hidden_size, w.config.mlp_rows(0).1);
    if rows.rows.is_empty() {
        return Ok(());
    }
    let xs = xs.at(rows.of(c));
    let [gate, up] = [ids.gate, ids.up].map(|ids| w.group(ids, rows.experts.clone()));
    gemm_grouped_nt(dev, xs, gate, mid.gate.at_mut(rows.of(f)), rows.at, f, c, Store::Set)?;
    gemm_grouped_nt(dev, xs, up, mid.up.at_mut(rows.of(f)), rows.at, f, c, Store::Set)?;
    swiglu_fwd(dev, mid.gate.at(rows.of(f)), mid.up.at(rows.of(f)), mid.s.at_mut(rows.of(f)))
}

/// `out = mid.s down^T`; out `[R, C]`.
fn down_fwd(dev: &Device, w: &Weights, ids: ExpertIds, rows: &Rows, mid: &Mid, out: &mut Buffer) -> Result<()> {
    let (c, f) = (w.config.hidden_size, w.config.mlp_rows(0).1);
    if rows.rows.is_empty() {
        return Ok(());
    }
    let (down, out) = (w.group(ids.down, rows.experts.clone()), out.at_mut(rows.of(c)));
    gemm_grouped_nt(dev, mid.s.at(rows.of(f)), down, out, rows.at, c, f, Store::Set)
}

/// `d.ds = dout down`, and `dw += ` the gradient of down, if it trains; dout `[R, C]`.
fn down_bwd(
    dev: &Device,
    w: &Weights,
    ids: ExpertIds,
    rows: &Rows,
    dout: &Buffer,
    mid: &Mid,
    d: &mut MidGrads,
    dw: &mut dyn Gradient,
) -> Result<()> {
    let (c, f, experts) = (w.config.hidden_size, w.config.mlp_rows(0).1, rows.experts.clone());
    if rows.rows.is_empty() {
        return Ok(());
    }
    let (dout, s) = (dout.at(rows.of(c)), mid.s.at(rows.of(f)));
    if let Some(to) = w.group_gradient(dw, ids.down, experts.clone()) {
        gemm_grouped_tn(dev, dout, s, to, rows.at, c, f, Store::Add)?;
    }
    gemm_grouped_nn(dev, dout, w.group(ids.down, experts).rows, d.ds.at_mut(rows.of(f)), rows.at, f, c, Store::Set)?;
    let (gate, up, ds) = (mid.gate.at(rows.of(f)), mid.up.at(rows.of(f)), d.ds.at(rows.of(f)));
    swiglu_bwd(dev, ds, gate, up, d.dgate.at_mut(rows.of(f)), d.dup.at_mut(rows.of(f)))
}

/// `dxs = d.dgate gate + d.dup up`, and `dw += ` the gradients of both, if they train; dxs `[R, C]`.
fn mid_bwd(
    dev: &Device,
    w: &Weights,
    ids: ExpertIds,
    rows: &Rows,
    xs: &Buffer,
    d: &MidGrads,
    dxs: &mut Buffer,
    dw: &mut dyn Gradient,
) -> Result<()> {
    let (c, f) = (w.config.hidden_size, w.config.mlp_rows(0).1);
    if rows.rows.is_empty() {
        return Ok(());
    }
    let (xs, both) = (xs.at(rows.of(c)), [(&d.dgate, ids.gate), (&d.dup, ids.up)]);
    for (dy, ids) in both {
        if let Some(to) = w.group_gradient(dw, ids, rows.experts.clone()) {
            gemm_grouped_tn(dev, dy.at(rows.of(f)), xs, to, rows.at, f, c, Store::Add)?;
        }
    }
    for ((dy, ids), store) in both.into_iter().zip([Store::Set, Store::Add]) {
        let b = w.group(ids, rows.experts.clone()).rows;
        gemm_grouped_nn(dev, dy.at(rows.of(f)), b, dxs.at_mut(rows.of(c)), rows.at, c, f, store)?;
    }
    Ok(())
}
