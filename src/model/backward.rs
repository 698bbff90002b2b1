//! The backward: [`mod@super::forward`]'s list of ops in reverse, each line's gradient written by hand.
//!
//! `dx` is the gradient of the residual stream; a branch adds to it, so it needs no line of its own. With checkpoints
//! ([`super::Checkpoint`]) a layer's forward is run again before its backward.

use super::activations::{Grads, LayerActs};
use super::experts::{Away, ExpertIds, experts_bwd, spread_bwd};
use super::forward::{layer_packed, no_layer};
use super::linear::{Parts, linear_bwd};
use super::{Activations, Gradient, LayerIds, Layout, Linear, Mlp, PackedBatch, TensorId, Use, Walk, Weights};
use crate::device::{Buffer, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::attn::attn_bwd;
use crate::ops::embed::{copy, embed_bwd, embed_order_len, fill};
use crate::ops::gemm::Store;
use crate::ops::logprob::linear_logprob_bwd;
use crate::ops::norm::{rmsnorm_bwd, rmsnorm_parts_len};
use crate::ops::rope::rope_bwd;
use crate::ops::swiglu::swiglu_bwd;
use crate::ops::want;

/// Adds to `dw` (a flat buffer laid out like what trains: the weights, or the adapter over them) the gradients of the last
/// [`super::forward()`] of this batch, given dlogprob and dentropy `[M]`.
///
/// # Errors
/// [`crate::Error::Shape`] when the activations are not of such a forward.
pub fn backward(
    dev: &Device,
    mut walk: impl Walk,
    batch: &PackedBatch,
    acts: &mut Activations,
    dlogprob: View,
    dentropy: View,
    dw: &mut dyn Gradient,
    inv_temperature: f32,
) -> Result<()> {
    want("backward", "activations made for training", (acts.for_use == Use::Train) as usize, 1)?;
    want("backward", "the batch of the last forward", batch.n_loss(), acts.n_out)?;
    want("backward", "dw laid out like what trains", dw.n_elements(), walk.weights().n_trained())?;
    let apart = walk.spread().is_some();
    want("backward", "activations for experts where these are", acts.guests.is_some().into(), apart.into())?;
    let (Some(g), balance) = (&mut acts.grads, acts.balance) else { return Ok(()) };
    let (n, m, c) = (batch.n_tokens(), batch.n_loss(), walk.weights().config.hidden_size);
    let (n_layers, head) = (walk.weights().layout.layers.len(), walk.weights().layout.bucket_of_head());
    walk.enters(dev, head)?;
    dw.begins(dev, head)?;
    let (out, w) = (&mut acts.out, walk.weights());
    let layout = &w.layout;
    linear_logprob_bwd(
        dev,
        dlogprob,
        dentropy,
        out.h.at(0..m * c),
        w.matrix(layout.head),
        batch.targets(),
        out.lse.at(0..m),
        out.entropy.at(0..m),
        g.dh_out.at_mut(0..m * c),
        w.gradient(dw, layout.head),
        out.workspace.view_mut(),
        c,
        inv_temperature,
    )?;
    if head != Layout::EMBED {
        dw.ends(dev, head)?;
    }
    // The final norm is the last layer's.
    dw.begins(dev, Layout::bucket_of_layer(n_layers - 1))?;
    fill(dev, g.dx_out.at_mut(0..m * c), 0.0)?;
    let dh = [g.dh_out.at(0..m * c), out.x.at(0..m * c), out.rstd.at(0..m)];
    norm_bwd(dev, w, layout.norm, dh, g.dx_out.at_mut(0..m * c), dw, &mut g.parts)?;
    fill(dev, g.dx.at_mut(0..n * c), 0.0)?;
    let order = g.order.at_mut(0..embed_order_len(dev, m));
    embed_bwd(dev, batch.loss_rows(), g.dx_out.at(0..m * c), g.dx.at_mut(0..n * c), order, c)?;
    let kept = acts.layers.len();
    for l in (0..n_layers).rev() {
        let (at, bucket) = (l.min(kept - 1), Layout::bucket_of_layer(l));
        walk.enters(dev, bucket)?;
        if l + 1 < n_layers {
            dw.begins(dev, bucket)?;
        }
        let w = walk.weights();
        let ids = &w.layout.layers[l];
        // What the last layer made is still there.
        if kept < n_layers && l + 1 < n_layers {
            copy(dev, acts.inputs[l].at(0..n * c), acts.x.at_mut(0..n * c))?;
            let away = Away { spread: walk.spread(), guests: acts.guests.as_mut() };
            layer_packed(dev, w, l, batch, &mut acts.x, &mut acts.layers[at], true, away)?;
        }
        let (a, x) = (&acts.layers[at], &acts.inputs[l]);
        let away = Away { spread: walk.spread(), guests: acts.guests.as_mut() };
        mlp(dev, w, ids, a, g, dw, [l, n], balance, away)?;
        project_out(dev, w, ids, a, g, dw, n)?;
        attend_packed(dev, w, batch, a, g)?;
        project_qkv(dev, w, ids, a, x, g, dw, batch.positions())?;
        dw.ends(dev, bucket)?;
    }
    if head != Layout::EMBED {
        dw.begins(dev, Layout::EMBED)?;
    }
    let w = walk.weights();
    if let Some(dtable) = w.gradient(dw, w.layout.embed) {
        let order = g.order.at_mut(0..embed_order_len(dev, n));
        embed_bwd(dev, batch.ids(), g.dx.at(0..n * c), dtable, order, c)?;
    }
    dw.ends(dev, Layout::EMBED)
}

/// Adds nothing to `dw` but what the rows of others make of this rank's experts, in the order in which [`backward()`] adds, behind
/// [`super::no_forward`].
///
/// # Errors
/// What the device and the ranks say.
pub fn no_backward(dev: &Device, mut walk: impl Walk, acts: &mut Activations, dw: &mut dyn Gradient) -> Result<()> {
    let (n_layers, head) = (walk.weights().layout.layers.len(), walk.weights().layout.bucket_of_head());
    walk.enters(dev, head)?;
    dw.begins(dev, head)?;
    if head != Layout::EMBED {
        dw.ends(dev, head)?;
    }
    for l in (0..n_layers).rev() {
        let bucket = Layout::bucket_of_layer(l);
        walk.enters(dev, bucket)?;
        dw.begins(dev, bucket)?;
        if acts.layers.len() < n_layers && l + 1 < n_layers {
            no_layer(dev, &walk, acts, l)?;
        }
        no_layer_bwd(dev, &walk, acts, dw, l)?;
        dw.ends(dev, bucket)?;
    }
    if head != Layout::EMBED {
        dw.begins(dev, Layout::EMBED)?;
    }
    dw.ends(dev, Layout::EMBED)
}

/// The rows of others in one layer.
fn no_layer_bwd(dev: &Device, walk: &impl Walk, acts: &mut Activations, dw: &mut dyn Gradient, l: usize) -> Result<()> {
    let (w, at) = (walk.weights(), l.min(acts.layers.len() - 1));
    let ids = ExpertIds::of(&w.layout.layers[l].mlp);
    let (m, d) = (&acts.layers[at].experts, acts.grads.as_mut().and_then(|g| g.experts.as_mut()));
    match (walk.spread().zip(acts.guests.as_mut()), ids, m.as_ref().zip(d)) {
        (Some(away), Some(ids), Some((m, d))) => spread_bwd(dev, w, ids, away, m, d, dw, l),
        _ => Ok(()),
    }
}

fn mlp(
    dev: &Device,
    w: &Weights,
    ids: &LayerIds,
    a: &LayerActs,
    g: &mut Grads,
    dw: &mut dyn Gradient,
    [l, n]: [usize; 2],
    balance: f32,
    away: Away,
) -> Result<()> {
    let (c, f) = (w.config.hidden_size, w.config.intermediate_size);
    match &ids.mlp {
        Mlp::Dense { gate, up, down } => dense_bwd(dev, w, [gate, up, down], a, g, dw, [n, c, f])?,
        Mlp::Experts { router, gate, up, down } => {
            experts_bwd(dev, w, ExpertIds { router, gate, up, down }, a, g, dw, [l, n], balance, away)?
        }
    }
    let (x, rstd, norm) = (a.x_mlp.at(0..n * c), a.mlp_rstd.at(0..n), ids.mlp_norm);
    norm_bwd(dev, w, norm, [g.dh.at(0..n * c), x, rstd], g.dx.at_mut(0..n * c), dw, &mut g.parts)
}

fn dense_bwd(
    dev: &Device,
    w: &Weights,
    [gate_ids, up_ids, down_ids]: [&Linear; 3],
    a: &LayerActs,
    g: &mut Grads,
    dw: &mut dyn Gradient,
    [n, c, f]: [usize; 3],
) -> Result<()> {
    let (dx, parts) = (g.dx.at(0..n * c), &mut g.parts);
    linear_bwd(dev, w, down_ids, [a.s.at(0..n * f), dx], g.ds.at_mut(0..n * f), dw, parts, Store::Set)?;
    let (gate, up, ds) = (a.gate.at(0..n * f), a.up.at(0..n * f), g.ds.at(0..n * f));
    swiglu_bwd(dev, ds, gate, up, g.dgate.at_mut(0..n * f), g.dup.at_mut(0..n * f))?;
    let (dgate, dup, h) = (g.dgate.at(0..n * f), g.dup.at(0..n * f), a.mlp_h.at(0..n * c));
    linear_bwd(dev, w, gate_ids, [h, dgate], g.dh.at_mut(0..n * c), dw, parts, Store::Set)?;
    linear_bwd(dev, w, up_ids, [h, dup], g.dh.at_mut(0..n * c), dw, parts, Store::Add)
}

fn project_out(
    dev: &Device,
    w: &Weights,
    ids: &LayerIds,
    a: &LayerActs,
    g: &mut Grads,
    dw: &mut dyn Gradient,
    n: usize,
) -> Result<()> {
    let (c, q) = (w.config.hidden_size, w.config.q_dim());
    let (o, dx) = (a.o.at(0..n * q), g.dx.at(0..n * c));
    linear_bwd(dev, w, &ids.o, [o, dx], g.d_o.at_mut(0..n * q), dw, &mut g.parts, Store::Set)
}

fn attend_packed(dev: &Device, w: &Weights, batch: &PackedBatch, a: &LayerActs, g: &mut Grads) -> Result<()> {
    let (n, q, kv, heads) = (batch.n_tokens(), w.config.q_dim(), w.config.kv_dim(), w.config.heads());
    attn_bwd(
        dev,
        g.d_o.at(0..n * q),
        a.q.at(0..n * q),
        a.k.at(0..n * kv),
        a.v.at(0..n * kv),
        a.o.at(0..n * q),
        a.lse.at(0..n * heads.q),
        batch.sequences(),
        g.dq.at_mut(0..n * q),
        g.dk.at_mut(0..n * kv),
        g.dv.at_mut(0..n * kv),
        heads,
    )
}

fn project_qkv(
    dev: &Device,
    w: &Weights,
    ids: &LayerIds,
    a: &LayerActs,
    x_attn: &Buffer,
    g: &mut Grads,
    dw: &mut dyn Gradient,
    positions: View,
) -> Result<()> {
    let (n, cfg, parts) = (positions.len(), &w.config, &mut g.parts);
    let (c, q, kv) = (cfg.hidden_size, cfg.q_dim(), cfg.kv_dim());
    let (h, hk, d) = (cfg.num_attention_heads, cfg.num_key_value_heads, cfg.head_dim);
    rope_bwd(dev, g.dk.at_mut(0..n * kv), positions, w.rope(), hk, d)?;
    rope_bwd(dev, g.dq.at_mut(0..n * q), positions, w.rope(), h, d)?;
    if let Some([q_norm, k_norm]) = ids.head_norms {
        fill(dev, g.dk_raw.at_mut(0..n * kv), 0.0)?;
        let dk = [g.dk.at(0..n * kv), a.k_raw.at(0..n * kv), a.k_rstd.at(0..n * hk)];
        norm_bwd(dev, w, k_norm, dk, g.dk_raw.at_mut(0..n * kv), dw, parts)?;
        fill(dev, g.dq_raw.at_mut(0..n * q), 0.0)?;
        let dq = [g.dq.at(0..n * q), a.q_raw.at(0..n * q), a.q_rstd.at(0..n * h)];
        norm_bwd(dev, w, q_norm, dq, g.dq_raw.at_mut(0..n * q), dw, parts)?;
    }
    let (dq, dk) = if ids.head_norms.is_some() { (&g.dq_raw, &g.dk_raw) } else { (&g.dq, &g.dk) };
    let (dq, dk, dv, x) = (dq.at(0..n * q), dk.at(0..n * kv), g.dv.at(0..n * kv), a.attn_h.at(0..n * c));
    linear_bwd(dev, w, &ids.q, [x, dq], g.dh.at_mut(0..n * c), dw, parts, Store::Set)?;
    linear_bwd(dev, w, &ids.k, [x, dk], g.dh.at_mut(0..n * c), dw, parts, Store::Add)?;
    linear_bwd(dev, w, &ids.v, [x, dv], g.dh.at_mut(0..n * c), dw, parts, Store::Add)?;
    let (x, rstd, norm) = (x_attn.at(0..n * c), a.attn_rstd.at(0..n), ids.attn_norm);
    norm_bwd(dev, w, norm, [g.dh.at(0..n * c), x, rstd], g.dx.at_mut(0..n * c), dw, parts)
}

/// `dx += ` and, if the norm trains, `dw += ` of it, given dy, x and rstd.
fn norm_bwd(
    dev: &Device,
    w: &Weights,
    norm: TensorId,
    [dy, x, rstd]: [View; 3],
    dx: ViewMut,
    dw: &mut dyn Gradient,
    parts: &mut Parts,
) -> Result<()> {
    let weight = w.get(norm);
    let parts = parts.sums.at_mut(0..rmsnorm_parts_len(dev, rstd.len(), weight.len()));
    rmsnorm_bwd(dev, dy, x, weight, rstd, dx, w.gradient(dw, norm), parts)
}
