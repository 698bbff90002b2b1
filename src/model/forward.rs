//! The forward: a list of ops, read beside [`mod@super::backward`].
//!
//! Packed (training, scoring) and paged (decode) run the same ops in the same order on a row and differ only in
//! where attention finds its keys; so a token's logprob has the same bits in both.

use super::activations::LayerActs;
use super::experts::{Away, ExpertIds, experts_fwd, spread_fwd};
use super::linear::{linear_add, linear_fwd, linear_qkv, linear_swiglu};
use super::{Activations, KvPages, LayerIds, Layout, Mlp, PackedBatch, PagedRows, Use, Walk, Weights};
use crate::device::{Buffer, Device, View};
use crate::error::{Error, Result};
use crate::ops::attn::{Paged, attn_decode, attn_fwd, kv_append};
use crate::ops::attn_step::attn_step;
use crate::ops::embed::{copy, embed_fwd};
use crate::ops::gemm::{Store, gemm_nt};
use crate::ops::gemm_fused::Normed;
use crate::ops::logprob::linear_logprob_fwd;
use crate::ops::norm::rmsnorm_fwd;
use crate::ops::qk_rope::{NewRows, Turn, qk_rope_append, qk_rope_fwd};
use crate::ops::rope::rope_fwd;
use crate::ops::want;

/// Logprob and entropy of every target of packed sequences, at `softmax(inv_temperature * logits)`; see
/// [`Activations::logprob`], [`Activations::entropy`]. With [`Use::Train`], keeps what backward needs. Weights that ranks keep in
/// parts are brought together layer by layer, where they are given to be written.
///
/// # Errors
/// [`Error::Shape`] when the batch does not fit the activations, or they were made for another use; what the ranks say.
pub fn forward(
    dev: &Device,
    mut walk: impl Walk,
    batch: &PackedBatch,
    acts: &mut Activations,
    inv_temperature: f32,
) -> Result<()> {
    walk.begins()?;
    let w = walk.weights();
    let (n, m, c, n_layers) = (batch.n_tokens(), batch.n_loss(), w.config.hidden_size, w.layout.layers.len());
    w.ready(dev)?;
    acts.begin([n, m, w.config.adapter_rank], acts.for_use != Use::Decode)?;
    acts.has_guests(walk.spread().is_some())?;
    let keep = acts.for_use == Use::Train;
    walk.enters(dev, Layout::EMBED)?;
    let w = walk.weights();
    embed_fwd(dev, batch.ids(), w.get(w.layout.embed), acts.x.at_mut(0..n * c), c)?;
    for l in 0..n_layers {
        if keep {
            copy(dev, acts.x.at(0..n * c), acts.inputs[l].at_mut(0..n * c))?;
        }
        let at = l.min(acts.layers.len() - 1);
        walk.enters(dev, Layout::bucket_of_layer(l))?;
        let w = walk.weights();
        let away = Away { spread: walk.spread(), guests: acts.guests.as_mut() };
        layer_packed(dev, w, l, batch, &mut acts.x, &mut acts.layers[at], keep, away)?;
    }
    embed_fwd(dev, batch.loss_rows(), acts.x.at(0..n * c), acts.out.x.at_mut(0..m * c), c)?;
    let o = &mut acts.out;
    norm_out(dev, walk.weights(), o.x.at(0..m * c), &mut o.h, &mut o.rstd)?;
    let head = walk.weights().layout.bucket_of_head();
    walk.enters(dev, head)?;
    let w = walk.weights();
    let (head, o) = (w.matrix(w.layout.head), &mut acts.out);
    linear_logprob_fwd(
        dev,
        o.h.at(0..m * c),
        head,
        batch.targets(),
        o.logprob.at_mut(0..m),
        o.lse.at_mut(0..m),
        o.entropy.at_mut(0..m),
        o.workspace.view_mut(),
        c,
        inv_temperature,
    )
}

/// Brings weights together in the order of [`forward()`], and runs the rows that others send to this rank's experts: what a rank
/// does while others have a batch and it has none.
///
/// # Errors
/// What the device and the ranks say.
pub fn no_forward(dev: &Device, mut walk: impl Walk, acts: &mut Activations) -> Result<()> {
    walk.begins()?;
    acts.has_guests(walk.spread().is_some())?;
    let (n_layers, head) = (walk.weights().layout.layers.len(), walk.weights().layout.bucket_of_head());
    walk.enters(dev, Layout::EMBED)?;
    for l in 0..n_layers {
        walk.enters(dev, Layout::bucket_of_layer(l))?;
        no_layer(dev, &walk, acts, l)?;
    }
    walk.enters(dev, head)
}

/// The rows of others in one layer.
pub(super) fn no_layer(dev: &Device, walk: &impl Walk, acts: &mut Activations, l: usize) -> Result<()> {
    let (w, at) = (walk.weights(), l.min(acts.layers.len() - 1));
    let (ids, m) = (ExpertIds::of(&w.layout.layers[l].mlp), &mut acts.layers[at].experts);
    match (walk.spread(), &mut acts.guests, ids, m) {
        (Some(spread), Some(guests), Some(ids), Some(m)) => spread_fwd(dev, w, ids, (spread, guests), m, [l, 0]),
        _ => Ok(()),
    }
}

/// Layer l of packed sequences, over the residual stream; `keep`: with all that its backward reads.
pub(super) fn layer_packed(
    dev: &Device,
    w: &Weights,
    l: usize,
    batch: &PackedBatch,
    x: &mut Buffer,
    a: &mut LayerActs,
    keep: bool,
    away: Away,
) -> Result<()> {
    let (n, c, ids) = (batch.n_tokens(), w.config.hidden_size, &w.layout.layers[l]);
    project_qkv(dev, w, ids, x, a, n, keep)?;
    turn(dev, w, ids, a, batch.positions())?;
    attend_packed(dev, w, batch, a)?;
    project_out(dev, w, ids, x, a, n)?;
    if keep {
        copy(dev, x.at(0..n * c), a.x_mlp.at_mut(0..n * c))?;
    }
    mlp(dev, w, ids, x, a, [l, n], keep, away)
}

/// `Ok` when [`forward_paged`] may run: what it looks at on the host besides shapes. A graph of its launches asks too.
///
/// # Errors
/// [`Error::Shape`] for a page that is none, or weights not packed since their last change.
pub fn ready_paged(dev: &Device, w: &Weights, rows: &PagedRows, kv: &KvPages) -> Result<()> {
    w.want_together()?;
    w.ready(dev)?;
    rows.fit(kv.n_pages)
}

/// Logits of the wanted rows, see [`Activations::logits`]; appends the keys and values of all rows to their pages.
///
/// # Errors
/// [`Error::Shape`] when the rows do not fit the activations, or they were made for another use.
pub fn forward_paged(
    dev: &Device,
    w: &Weights,
    rows: &PagedRows,
    kv: &mut KvPages,
    acts: &mut Activations,
) -> Result<()> {
    let (n, m, c) = (rows.n_rows(), rows.n_logits(), w.config.hidden_size);
    ready_paged(dev, w, rows, kv)?;
    acts.begin([n, m, w.config.adapter_rank], acts.for_use == Use::Decode)?;
    embed_fwd(dev, rows.ids(), w.get(w.layout.embed), acts.x.at_mut(0..n * c), c)?;
    let n_layers = w.layout.layers.len();
    for (l, ids) in w.layout.layers.iter().enumerate() {
        let a = &mut acts.layers[0];
        if l + 1 == n_layers {
            dev.note_keys(|| rows.keys_read());
        }
        let (x, n) = if l + 1 < n_layers || rows.all_sample() {
            project_qkv(dev, w, ids, &acts.x, a, n, false)?;
            attend_new(dev, w, ids, rows, kv, l, a)?;
            (&mut acts.x, n)
        } else {
            // What the last layer makes of other rows nobody reads: of them only keys and values are wanted.
            norm_in(dev, w, ids, &acts.x, a, n)?;
            project_kv(dev, w, ids, a, rows.positions())?;
            append(dev, w, rows.at(), kv, l, a)?;
            let x = &mut acts.out.x;
            embed_fwd(dev, rows.logit_rows(), acts.x.at(0..n * c), x.at_mut(0..m * c), c)?;
            norm_in(dev, w, ids, x, a, m)?;
            project_q(dev, w, ids, a, rows.at_logits().pos)?;
            attend_paged(dev, w, rows.at_logits(), kv, l, a)?;
            (x, m)
        };
        project_out(dev, w, ids, x, a, n)?;
        mlp(dev, w, ids, x, a, [l, n], false, Away::NONE)?;
    }
    let (v, head, o) = (acts.vocab, w.matrix(w.layout.head), &mut acts.out);
    let x = if rows.all_sample() { &acts.x } else { &o.x };
    norm_out(dev, w, x.at(0..m * c), &mut o.h, &mut o.rstd)?;
    gemm_nt(dev, o.h.at(0..m * c), head, o.logits.at_mut(0..m * v), m, v, c, Store::Set)
}

impl Activations {
    fn begin(&mut self, [n, m, r]: [usize; 3], right_use: bool) -> Result<()> {
        want("forward", "activations made for this use", right_use as usize, 1)?;
        for (rule, got, most) in [
            ("N <= max_tokens of the activations", n, self.max_tokens),
            ("M <= max_out", m, self.max_out),
            ("r <= max_rank", r, self.max_rank),
        ] {
            if got > most {
                return Err(Error::Shape { op: "forward", rule, want: most, got });
            }
        }
        self.n_out = m;
        Ok(())
    }

    /// `Ok` where there is room for other ranks' rows, if they come; of weights that are only read they do not.
    fn has_guests(&self, come: bool) -> Result<()> {
        want("forward", "activations with room for rows of other ranks", (!come || self.guests.is_some()).into(), 1)
    }
}

/// Residual stream -> its norm, which queries, keys and values are made of.
fn norm_in(dev: &Device, w: &Weights, ids: &LayerIds, x: &Buffer, a: &mut LayerActs, n: usize) -> Result<()> {
    let (c, eps) = (w.config.hidden_size, w.config.rms_norm_eps);
    rmsnorm_fwd(dev, x.at(0..n * c), w.get(ids.attn_norm), a.attn_h.at_mut(0..n * c), a.attn_rstd.at_mut(0..n), eps)
}

/// Residual stream -> its norm, and queries, keys and values of it, as they are before [`turn`]; `keep`: with the norm.
fn project_qkv(
    dev: &Device,
    w: &Weights,
    ids: &LayerIds,
    x: &Buffer,
    a: &mut LayerActs,
    n: usize,
    keep: bool,
) -> Result<()> {
    let (c, q, kv, eps) = (w.config.hidden_size, w.config.q_dim(), w.config.kv_dim(), w.config.rms_norm_eps);
    let (h, rstd) = (a.attn_h.at_mut(0..n * c), a.attn_rstd.at_mut(0..n));
    let rows = Normed { x: x.at(0..n * c), weight: w.get(ids.attn_norm), eps, h, rstd, keep };
    let (to_q, to_k) = if ids.head_norms.is_some() { (&mut a.q_raw, &mut a.k_raw) } else { (&mut a.q, &mut a.k) };
    let to = [to_q.at_mut(0..n * q), to_k.at_mut(0..n * kv), a.v.at_mut(0..n * kv)];
    linear_qkv(dev, w, ids, rows, to, &mut a.low)
}

/// Queries and keys, normed where the family does, rotated.
fn turn(dev: &Device, w: &Weights, ids: &LayerIds, a: &mut LayerActs, positions: View) -> Result<()> {
    let (n, heads, eps) = (positions.len(), w.config.heads(), w.config.rms_norm_eps);
    let (q, k) = (n * w.config.q_dim(), n * w.config.kv_dim());
    let (to_q, to_k) = (a.q.at_mut(0..q), a.k.at_mut(0..k));
    let (q, k) = match ids.head_norms {
        None => (Turn::InPlace(to_q), Turn::InPlace(to_k)),
        Some([q_norm, k_norm]) => {
            let (q_rstd, k_rstd) = (a.q_rstd.at_mut(0..n * heads.q), a.k_rstd.at_mut(0..n * heads.kv));
            let q = Turn::Normed { raw: a.q_raw.at(0..q), weight: w.get(q_norm), rstd: Some(q_rstd), to: to_q };
            (q, Turn::Normed { raw: a.k_raw.at(0..k), weight: w.get(k_norm), rstd: Some(k_rstd), to: to_k })
        }
    };
    qk_rope_fwd(dev, q, k, positions, w.rope(), heads, eps)
}

/// The same of new rows over pages, whose keys and values go to their slots; and their attention: at once where no row sees
/// another's new key.
fn attend_new(
    dev: &Device,
    w: &Weights,
    ids: &LayerIds,
    rows: &PagedRows,
    pages: &mut KvPages,
    layer: usize,
    a: &mut LayerActs,
) -> Result<()> {
    let (at, table, heads, eps) = (rows.at(), w.rope(), w.config.heads(), w.config.rms_norm_eps);
    let (q, kv) = (at.pos.len() * w.config.q_dim(), at.pos.len() * w.config.kv_dim());
    let to = a.q.at_mut(0..q);
    let (turn, k, k_norm) = match ids.head_norms {
        None => (Turn::InPlace(to), &a.k, None),
        Some([q_norm, k_norm]) => {
            let (raw, weight) = (a.q_raw.at(0..q), w.get(q_norm));
            (Turn::Normed { raw, weight, rstd: None, to }, &a.k_raw, Some(w.get(k_norm)))
        }
    };
    let new = NewRows { q: turn, k: k.at(0..kv), v: a.v.at(0..kv), k_norm, at, table, eps };
    let to = [pages.k[layer].view_mut(), pages.v[layer].view_mut()];
    if rows.apart() {
        return attn_step(dev, new, to, a.o.at_mut(0..q), a.parts.view_mut(), heads);
    }
    qk_rope_append(dev, new, to, heads)?;
    attend_paged(dev, w, at, pages, layer, a)
}

/// Rotated queries, normed where the family does.
fn project_q(dev: &Device, w: &Weights, ids: &LayerIds, a: &mut LayerActs, positions: View) -> Result<()> {
    let (n, c, q) = (positions.len(), w.config.hidden_size, w.config.q_dim());
    let (h, d, eps) = (w.config.num_attention_heads, w.config.head_dim, w.config.rms_norm_eps);
    let (x, raw) = (a.attn_h.at(0..n * c), if ids.head_norms.is_some() { &mut a.q_raw } else { &mut a.q });
    linear_fwd(dev, w, &ids.q, x, raw.at_mut(0..n * q), &mut a.low)?;
    if let Some([q_norm, _]) = ids.head_norms {
        let (q_raw, rstd) = (a.q_raw.at(0..n * q), a.q_rstd.at_mut(0..n * h));
        rmsnorm_fwd(dev, q_raw, w.get(q_norm), a.q.at_mut(0..n * q), rstd, eps)?;
    }
    rope_fwd(dev, a.q.at_mut(0..n * q), positions, w.rope(), h, d)
}

/// Rotated keys, normed where the family does, and values.
fn project_kv(dev: &Device, w: &Weights, ids: &LayerIds, a: &mut LayerActs, positions: View) -> Result<()> {
    let (n, c, kv) = (positions.len(), w.config.hidden_size, w.config.kv_dim());
    let (hk, d, eps) = (w.config.num_key_value_heads, w.config.head_dim, w.config.rms_norm_eps);
    let (x, raw) = (a.attn_h.at(0..n * c), if ids.head_norms.is_some() { &mut a.k_raw } else { &mut a.k });
    linear_fwd(dev, w, &ids.k, x, raw.at_mut(0..n * kv), &mut a.low)?;
    linear_fwd(dev, w, &ids.v, x, a.v.at_mut(0..n * kv), &mut a.low)?;
    if let Some([_, k_norm]) = ids.head_norms {
        let (k_raw, rstd) = (a.k_raw.at(0..n * kv), a.k_rstd.at_mut(0..n * hk));
        rmsnorm_fwd(dev, k_raw, w.get(k_norm), a.k.at_mut(0..n * kv), rstd, eps)?;
    }
    rope_fwd(dev, a.k.at_mut(0..n * kv), positions, w.rope(), hk, d)
}

fn attend_packed(dev: &Device, w: &Weights, batch: &PackedBatch, a: &mut LayerActs) -> Result<()> {
    let (n, q, kv, heads) = (batch.n_tokens(), w.config.q_dim(), w.config.kv_dim(), w.config.heads());
    attn_fwd(
        dev,
        a.q.at(0..n * q),
        a.k.at(0..n * kv),
        a.v.at(0..n * kv),
        batch.sequences(),
        a.o.at_mut(0..n * q),
        a.lse.at_mut(0..n * heads.q),
        heads,
    )
}

/// Writes the rows' keys and values into their pages.
fn append(dev: &Device, w: &Weights, at: Paged, pages: &mut KvPages, layer: usize, a: &LayerActs) -> Result<()> {
    let (len, heads) = (at.pos.len() * w.config.kv_dim(), w.config.heads());
    let (k_pages, v_pages) = (&mut pages.k[layer], &mut pages.v[layer]);
    kv_append(dev, a.k.at(0..len), a.v.at(0..len), at, k_pages.view_mut(), v_pages.view_mut(), heads)
}

fn attend_paged(dev: &Device, w: &Weights, at: Paged, pages: &KvPages, layer: usize, a: &mut LayerActs) -> Result<()> {
    let (len, heads) = (at.pos.len() * w.config.q_dim(), w.config.heads());
    let (k_pages, v_pages) = (pages.k[layer].view(), pages.v[layer].view());
    attn_decode(dev, a.q.at(0..len), k_pages, v_pages, at, a.o.at_mut(0..len), a.parts.view_mut(), heads)
}

/// Residual stream += attention's output, projected.
fn project_out(dev: &Device, w: &Weights, ids: &LayerIds, x: &mut Buffer, a: &mut LayerActs, n: usize) -> Result<()> {
    let (c, q) = (w.config.hidden_size, w.config.q_dim());
    linear_add(dev, w, &ids.o, a.o.at(0..n * q), x.at_mut(0..n * c), &mut a.low)
}

/// Residual stream += MLP, or experts, of the normed residual stream; `keep`: with all that backward reads.
fn mlp(
    dev: &Device,
    w: &Weights,
    ids: &LayerIds,
    x: &mut Buffer,
    a: &mut LayerActs,
    [l, n]: [usize; 2],
    keep: bool,
    away: Away,
) -> Result<()> {
    let (c, f, eps) = (w.config.hidden_size, w.config.intermediate_size, w.config.rms_norm_eps);
    let (h, rstd) = (a.mlp_h.at_mut(0..n * c), a.mlp_rstd.at_mut(0..n));
    match &ids.mlp {
        Mlp::Dense { gate, up, down } => {
            let rows = Normed { x: x.at(0..n * c), weight: w.get(ids.mlp_norm), eps, h, rstd, keep };
            let pair = [a.gate.at_mut(0..n * f), a.up.at_mut(0..n * f)];
            linear_swiglu(dev, w, [gate, up], rows, pair, a.s.at_mut(0..n * f), &mut a.low)?;
            linear_add(dev, w, down, a.s.at(0..n * f), x.at_mut(0..n * c), &mut a.low)
        }
        Mlp::Experts { router, gate, up, down } => {
            rmsnorm_fwd(dev, x.at(0..n * c), w.get(ids.mlp_norm), h, rstd, eps)?;
            experts_fwd(dev, w, ExpertIds { router, gate, up, down }, x.at_mut(0..n * c), a, [l, n], away)
        }
    }
}

/// The final norm, of the rows that carry a loss or sample only.
fn norm_out(dev: &Device, w: &Weights, x: View, h: &mut Buffer, rstd: &mut Buffer) -> Result<()> {
    let (c, eps) = (w.config.hidden_size, w.config.rms_norm_eps);
    rmsnorm_fwd(dev, x, w.get(w.layout.norm), h.at_mut(0..x.len()), rstd.at_mut(0..x.len() / c), eps)
}
