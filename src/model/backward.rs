//! The backward: [`mod@super::forward`]'s list of ops in reverse, each line's gradient written by hand.
//!
//! `dx` is the gradient of the residual stream; a branch adds to it, so it needs no line of its own.

use super::activations::{Grads, LayerActs};
use super::{Activations, LayerIds, PackedBatch, Use, Weights};
use crate::device::{Buffer, Device, View};
use crate::error::Result;
use crate::ops::attn::attn_bwd;
use crate::ops::embed::{embed_bwd, embed_order_len, fill};
use crate::ops::gemm::{Store, gemm_nn, gemm_tn};
use crate::ops::logprob::linear_logprob_bwd;
use crate::ops::norm::{rmsnorm_bwd, rmsnorm_parts_len};
use crate::ops::rope::rope_bwd;
use crate::ops::swiglu::swiglu_bwd;
use crate::ops::want;

/// Adds to `dw` (a flat buffer laid out like the weights) the gradients of the last [`super::forward()`] of this batch,
/// given dlogprob and dentropy `[M]`.
///
/// # Errors
/// [`crate::Error::Shape`] when the activations are not of such a forward.
pub fn backward(
    dev: &Device,
    w: &Weights,
    batch: &PackedBatch,
    acts: &mut Activations,
    dlogprob: View,
    dentropy: View,
    dw: &mut Buffer,
    inv_temperature: f32,
) -> Result<()> {
    want("backward", "activations made for training", (acts.for_use == Use::Train) as usize, 1)?;
    want("backward", "the batch of the last forward", batch.n_loss(), acts.n_out)?;
    want("backward", "dw laid out like the weights", dw.len(), w.layout.len)?;
    let Some(g) = &mut acts.grads else { return Ok(()) };
    let (n, m, c) = (batch.n_tokens(), batch.n_loss(), w.config.hidden_size);
    let (out, layout) = (&mut acts.out, &w.layout);
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
        layout.of_mut(dw, layout.head),
        out.workspace.view_mut(),
        c,
        inv_temperature,
    )?;
    fill(dev, g.dx_out.at_mut(0..m * c), 0.0)?;
    let (dh, x, rstd) = (g.dh_out.at(0..m * c), out.x.at(0..m * c), out.rstd.at(0..m));
    let (dx, dw_norm) = (g.dx_out.at_mut(0..m * c), layout.of_mut(dw, layout.norm));
    let parts = g.norm_parts.at_mut(0..rmsnorm_parts_len(dev, m, c));
    rmsnorm_bwd(dev, dh, x, w.get(layout.norm), rstd, dx, dw_norm, parts)?;
    fill(dev, g.dx.at_mut(0..n * c), 0.0)?;
    let order = g.order.at_mut(0..embed_order_len(dev, m));
    embed_bwd(dev, batch.loss_rows(), g.dx_out.at(0..m * c), g.dx.at_mut(0..n * c), order, c)?;
    for (ids, a) in layout.layers.iter().zip(&acts.layers).rev() {
        mlp(dev, w, ids, a, g, dw, n)?;
        project_out(dev, w, ids, a, g, dw, n)?;
        attend_packed(dev, w, batch, a, g)?;
        project_qkv(dev, w, ids, a, g, dw, batch.positions())?;
    }
    let order = g.order.at_mut(0..embed_order_len(dev, n));
    embed_bwd(dev, batch.ids(), g.dx.at(0..n * c), layout.of_mut(dw, layout.embed), order, c)
}

fn mlp(
    dev: &Device,
    w: &Weights,
    ids: &LayerIds,
    a: &LayerActs,
    g: &mut Grads,
    dw: &mut Buffer,
    n: usize,
) -> Result<()> {
    let (c, f, lay) = (w.config.hidden_size, w.config.intermediate_size, &w.layout);
    let dx = g.dx.at(0..n * c);
    gemm_tn(dev, dx, a.s.at(0..n * f), lay.of_mut(dw, ids.down), c, f, n, Store::Add)?;
    gemm_nn(dev, dx, w.get(ids.down), g.ds.at_mut(0..n * f), n, f, c, Store::Set)?;
    let (gate, up, ds) = (a.gate.at(0..n * f), a.up.at(0..n * f), g.ds.at(0..n * f));
    swiglu_bwd(dev, ds, gate, up, g.dgate.at_mut(0..n * f), g.dup.at_mut(0..n * f))?;
    let (dgate, dup, h) = (g.dgate.at(0..n * f), g.dup.at(0..n * f), a.mlp_h.at(0..n * c));
    gemm_tn(dev, dup, h, lay.of_mut(dw, ids.up), f, c, n, Store::Add)?;
    gemm_tn(dev, dgate, h, lay.of_mut(dw, ids.gate), f, c, n, Store::Add)?;
    gemm_nn(dev, dgate, w.get(ids.gate), g.dh.at_mut(0..n * c), n, c, f, Store::Set)?;
    gemm_nn(dev, dup, w.get(ids.up), g.dh.at_mut(0..n * c), n, c, f, Store::Add)?;
    let (dh, x, rstd) = (g.dh.at(0..n * c), a.x_mlp.at(0..n * c), a.mlp_rstd.at(0..n));
    let (dx, parts) = (g.dx.at_mut(0..n * c), g.norm_parts.at_mut(0..rmsnorm_parts_len(dev, n, c)));
    rmsnorm_bwd(dev, dh, x, w.get(ids.mlp_norm), rstd, dx, lay.of_mut(dw, ids.mlp_norm), parts)
}

fn project_out(
    dev: &Device,
    w: &Weights,
    ids: &LayerIds,
    a: &LayerActs,
    g: &mut Grads,
    dw: &mut Buffer,
    n: usize,
) -> Result<()> {
    let (c, q) = (w.config.hidden_size, w.config.q_dim());
    let dx = g.dx.at(0..n * c);
    gemm_tn(dev, dx, a.o.at(0..n * q), w.layout.of_mut(dw, ids.o), c, q, n, Store::Add)?;
    gemm_nn(dev, dx, w.get(ids.o), g.d_o.at_mut(0..n * q), n, q, c, Store::Set)
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
        batch.cu_seqlens(),
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
    g: &mut Grads,
    dw: &mut Buffer,
    positions: View,
) -> Result<()> {
    let (n, cfg, lay) = (positions.len(), &w.config, &w.layout);
    let (c, q, kv) = (cfg.hidden_size, cfg.q_dim(), cfg.kv_dim());
    let (h, hk, d) = (cfg.num_attention_heads, cfg.num_key_value_heads, cfg.head_dim);
    rope_bwd(dev, g.dk.at_mut(0..n * kv), positions, w.rope.view(), hk, d)?;
    rope_bwd(dev, g.dq.at_mut(0..n * q), positions, w.rope.view(), h, d)?;
    fill(dev, g.dk_raw.at_mut(0..n * kv), 0.0)?;
    let (dk, k_raw, rstd) = (g.dk.at(0..n * kv), a.k_raw.at(0..n * kv), a.k_rstd.at(0..n * hk));
    let (dk_raw, parts) = (g.dk_raw.at_mut(0..n * kv), g.norm_parts.at_mut(0..rmsnorm_parts_len(dev, n * hk, d)));
    rmsnorm_bwd(dev, dk, k_raw, w.get(ids.k_norm), rstd, dk_raw, lay.of_mut(dw, ids.k_norm), parts)?;
    fill(dev, g.dq_raw.at_mut(0..n * q), 0.0)?;
    let (dq, q_raw, rstd) = (g.dq.at(0..n * q), a.q_raw.at(0..n * q), a.q_rstd.at(0..n * h));
    let (dq_raw, parts) = (g.dq_raw.at_mut(0..n * q), g.norm_parts.at_mut(0..rmsnorm_parts_len(dev, n * h, d)));
    rmsnorm_bwd(dev, dq, q_raw, w.get(ids.q_norm), rstd, dq_raw, lay.of_mut(dw, ids.q_norm), parts)?;
    let (dq, dk, dv, x) = (g.dq_raw.at(0..n * q), g.dk_raw.at(0..n * kv), g.dv.at(0..n * kv), a.attn_h.at(0..n * c));
    gemm_tn(dev, dv, x, lay.of_mut(dw, ids.v), kv, c, n, Store::Add)?;
    gemm_tn(dev, dk, x, lay.of_mut(dw, ids.k), kv, c, n, Store::Add)?;
    gemm_tn(dev, dq, x, lay.of_mut(dw, ids.q), q, c, n, Store::Add)?;
    gemm_nn(dev, dq, w.get(ids.q), g.dh.at_mut(0..n * c), n, c, q, Store::Set)?;
    gemm_nn(dev, dk, w.get(ids.k), g.dh.at_mut(0..n * c), n, c, kv, Store::Add)?;
    gemm_nn(dev, dv, w.get(ids.v), g.dh.at_mut(0..n * c), n, c, kv, Store::Add)?;
    let (dh, x, rstd) = (g.dh.at(0..n * c), a.x_attn.at(0..n * c), a.attn_rstd.at(0..n));
    let (dx, parts) = (g.dx.at_mut(0..n * c), g.norm_parts.at_mut(0..rmsnorm_parts_len(dev, n, c)));
    rmsnorm_bwd(dev, dh, x, w.get(ids.attn_norm), rstd, dx, lay.of_mut(dw, ids.attn_norm), parts)
}
