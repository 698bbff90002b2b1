//! The buffers a forward and a backward write, sized once for the most tokens a call may bring.

use super::expert_acts::{ExpertActs, ExpertGrads, Guests};
use super::linear::Parts;
use super::spread::Spread;
use super::{ModelConfig, Plan, Weights};
use crate::device::{Buffer, DType, Device, View, ViewMut};
use crate::error::Result;
use crate::ops::attn::attn_decode_workspace;
use crate::ops::bias::bias_parts_len;
use crate::ops::embed::embed_order_len;
use crate::ops::logprob::linear_logprob_workspace;
use crate::ops::norm::rmsnorm_parts_len;

/// What activations are for; each use holds only the buffers it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Packed forward and backward: every layer's intermediates are kept.
    Train,
    /// Packed forward only: logprobs and entropies.
    Score,
    /// Paged forward: logits of the rows that sample.
    Decode,
}

/// What a training forward keeps for the backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checkpoint {
    /// Every layer's intermediates.
    #[default]
    None,
    /// Each layer's input; the backward runs the layer's forward again from it, which gives the same bits (Chen et al. 2016,
    /// arXiv:1604.06174). The last layer's intermediates are still there.
    Layers,
}

/// One layer's intermediates, all `[N, ..]`.
pub(super) struct LayerActs {
    pub attn_rstd: Buffer,
    pub attn_h: Buffer,
    /// Queries and keys before their norm, in families that have one.
    pub q_raw: Buffer,
    pub k_raw: Buffer,
    pub q_rstd: Buffer,
    pub k_rstd: Buffer,
    pub q: Buffer,
    pub k: Buffer,
    pub v: Buffer,
    pub o: Buffer,
    pub lse: Buffer,
    /// What rows over pages leave of their segments; when decoding.
    pub parts: Buffer,
    /// Residual stream before the MLP `[N, C]`; kept when training.
    pub x_mlp: Buffer,
    pub mlp_rstd: Buffer,
    pub mlp_h: Buffer,
    /// Of the MLP, `[N, F]`; of experts: [`super::expert_acts::Mid`].
    pub gate: Buffer,
    pub up: Buffer,
    pub s: Buffer,
    /// Scratch of an adapter, `[N, r]`.
    pub low: Buffer,
    pub experts: Option<ExpertActs>,
}

/// Gradients of one layer's intermediates; all layers share them.
pub(super) struct Grads {
    pub dx: Buffer,
    pub dh: Buffer,
    pub dq_raw: Buffer,
    pub dk_raw: Buffer,
    pub dq: Buffer,
    pub dk: Buffer,
    pub dv: Buffer,
    pub d_o: Buffer,
    pub dgate: Buffer,
    pub dup: Buffer,
    pub ds: Buffer,
    pub dx_out: Buffer,
    pub dh_out: Buffer,
    /// Of rows by their ids.
    pub order: Buffer,
    pub experts: Option<ExpertGrads>,
    /// Sums of blocks of rows, of a norm's dw or a bias's; and an adapter's.
    pub parts: Parts,
}

/// What is computed for the rows that carry a loss or sample, `[M, ..]`.
pub(super) struct OutActs {
    pub x: Buffer,
    pub rstd: Buffer,
    pub h: Buffer,
    pub logprob: Buffer,
    pub lse: Buffer,
    pub entropy: Buffer,
    pub logits: Buffer,
    pub workspace: Buffer,
}

/// Every intermediate of one model on one device.
pub struct Activations {
    /// Most tokens N of a call.
    pub max_tokens: usize,
    /// Most rows M of a call that carry a loss or sample.
    pub max_out: usize,
    /// Rank of the widest adapter of a call.
    pub max_rank: usize,
    /// What they are for.
    pub for_use: Use,
    /// Weight of each layer's load-balancing loss in the loss of the next backward; of models with experts.
    pub balance: f32,
    /// Rows M of the last forward.
    pub(super) n_out: usize,
    pub(super) vocab: usize,
    /// The residual stream `[N, C]`.
    pub(super) x: Buffer,
    /// Residual stream before each layer `[N, C]`; kept when training.
    pub(super) inputs: Vec<Buffer>,
    /// One a layer when training without checkpoints, else one for all.
    pub(super) layers: Vec<LayerActs>,
    pub(super) out: OutActs,
    pub(super) grads: Option<Grads>,
    /// Where experts are spread over ranks.
    pub(super) guests: Option<Guests>,
}

impl Activations {
    /// Buffers for at most `max_tokens` tokens, `max_out` of which carry a loss (or, when decoding, sample).
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn new(dev: &Device, c: &ModelConfig, max_tokens: usize, max_out: usize, for_use: Use) -> Result<Activations> {
        Activations::planned(&mut Plan::on(dev), c, max_tokens, max_out, for_use)
    }

    /// The same, through a plan.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn planned(
        plan: &mut Plan,
        c: &ModelConfig,
        max_tokens: usize,
        max_out: usize,
        for_use: Use,
    ) -> Result<Activations> {
        Activations::checkpointed(plan, c, max_tokens, max_out, for_use, Checkpoint::None)
    }

    /// The same, keeping no more of a training forward than `checkpoint` says.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn checkpointed(
        plan: &mut Plan,
        c: &ModelConfig,
        max_tokens: usize,
        max_out: usize,
        for_use: Use,
        checkpoint: Checkpoint,
    ) -> Result<Activations> {
        Activations::sized(plan, c, [max_tokens, max_out], for_use, checkpoint, None)
    }

    /// The same to train these weights, for as many tokens as carry a loss at most: where their experts are spread over ranks,
    /// with room for the rows of the others.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn training(plan: &mut Plan, w: &Weights, max_tokens: usize, checkpoint: Checkpoint) -> Result<Activations> {
        Activations::sized(plan, &w.config, [max_tokens; 2], Use::Train, checkpoint, w.spread())
    }

    fn sized(
        plan: &mut Plan,
        c: &ModelConfig,
        [max_tokens, max_out]: [usize; 2],
        for_use: Use,
        checkpoint: Checkpoint,
        spread: Option<&Spread>,
    ) -> Result<Activations> {
        let group = match for_use {
            Use::Train => "activations (train)",
            Use::Score => "activations (score)",
            Use::Decode => "activations (decode)",
        };
        let trained = if for_use == Use::Train { c.num_hidden_layers } else { 0 };
        let kept = if checkpoint == Checkpoint::None { trained.max(1) } else { 1 };
        let x = plan.buffer(group, "x", c.compute, max_tokens * c.hidden_size)?;
        // One row may give several logits, so these may be more than the rows; the last layer runs them all.
        let rows = if for_use == Use::Decode { max_tokens.max(max_out) } else { max_tokens };
        let input = |l: usize, plan: &mut Plan| {
            plan.buffer(group, format!("layers.{l}.x_attn"), c.compute, max_tokens * c.hidden_size)
        };
        let inputs = (0..trained).map(|l| input(l, plan)).collect::<Result<_>>()?;
        let layers =
            (0..kept).map(|l| layer_acts(plan, group, c, [rows, l], for_use, spread)).collect::<Result<_>>()?;
        let out = out_acts(plan, group, c, max_out, for_use)?;
        let grads = (for_use == Use::Train).then(|| grad_acts(plan, c, [max_tokens, max_out], spread)).transpose()?;
        let guests = spread.map(|spread| Guests::planned(plan, c, max_tokens, spread)).transpose()?;
        Ok(Activations {
            max_tokens,
            max_out,
            max_rank: c.adapter_rank,
            for_use,
            balance: 0.0,
            n_out: 0,
            vocab: c.vocab_size,
            x,
            inputs,
            layers,
            out,
            grads,
            guests,
        })
    }

    /// Logprob `[M]` of each target of the last packed forward.
    pub fn logprob(&self) -> View<'_> {
        self.out.logprob.at(0..self.n_out)
    }

    /// Entropy `[M]` of each row's distribution in the last packed forward.
    pub fn entropy(&self) -> View<'_> {
        self.out.entropy.at(0..self.n_out)
    }

    /// Adds the tokens that each expert of each layer got in the last backward to `load [L, E]`; nothing without experts.
    /// `counts [L, E]` is scratch.
    ///
    /// # Errors
    /// What the device met since.
    pub fn add_expert_load(&self, dev: &Device, counts: &mut [i32], load: &mut [u64]) -> Result<()> {
        let Some(experts) = self.grads.as_ref().and_then(|g| g.experts.as_ref()) else { return Ok(()) };
        dev.read(experts.counts.view(), counts)?;
        load.iter_mut().zip(counts).for_each(|(load, n)| *load += *n as u64);
        Ok(())
    }

    /// Rows that this rank has sent to experts at other ranks, and back from its own, since it was asked last.
    pub fn take_sent_rows(&mut self) -> [u64; 2] {
        self.guests.as_mut().map_or([0; 2], |guests| std::mem::take(&mut guests.sent))
    }

    /// Logits `[M, V]` of the last paged forward.
    pub fn logits(&self) -> View<'_> {
        self.out.logits.at(0..self.n_out * self.vocab)
    }

    /// The same, to sample from (sampling scales them in place).
    pub fn logits_mut(&mut self) -> ViewMut<'_> {
        self.out.logits.at_mut(0..self.n_out * self.vocab)
    }
}

fn layer_acts(
    plan: &mut Plan,
    group: &'static str,
    c: &ModelConfig,
    [n, l]: [usize; 2],
    for_use: Use,
    spread: Option<&Spread>,
) -> Result<LayerActs> {
    let (width, h, hk) = (c.hidden_size, c.num_attention_heads, c.num_key_value_heads);
    let dense = if c.experts.is_some() { 0 } else { n * c.intermediate_size };
    let kept = if for_use == Use::Train { n * width } else { 0 };
    let normed = if c.family.norms_heads() { n } else { 0 };
    let parts = match for_use {
        Use::Decode => attn_decode_workspace(plan.device(), n, c.max_position_embeddings, c.heads()),
        Use::Train | Use::Score => 0,
    };
    let factor = plan.device().factor_dtype(c.compute);
    let mut of = |dtype, name: &str, len: usize| plan.buffer(group, format!("layers.{l}.{name}"), dtype, len);
    let mut b = |name: &str, len: usize| match name {
        "attn_rstd" | "q_rstd" | "k_rstd" | "mlp_rstd" | "lse" | "parts" => of(DType::F32, name, len),
        "attn_h" | "mlp_h" | "s" => of(factor, name, len),
        _ => of(c.compute, name, len),
    };
    Ok(LayerActs {
        attn_rstd: b("attn_rstd", n)?,
        attn_h: b("attn_h", n * width)?,
        q_raw: b("q_raw", normed * c.q_dim())?,
        k_raw: b("k_raw", normed * c.kv_dim())?,
        q_rstd: b("q_rstd", normed * h)?,
        k_rstd: b("k_rstd", normed * hk)?,
        q: b("q", n * c.q_dim())?,
        k: b("k", n * c.kv_dim())?,
        v: b("v", n * c.kv_dim())?,
        o: b("o", n * c.q_dim())?,
        lse: b("lse", n * h)?,
        parts: b("parts", parts)?,
        x_mlp: b("x_mlp", kept)?,
        mlp_rstd: b("mlp_rstd", n)?,
        mlp_h: b("mlp_h", n * width)?,
        gate: b("gate", dense)?,
        up: b("up", dense)?,
        s: b("s", dense)?,
        low: b("low", n * c.adapter_rank)?,
        experts: c.experts.is_some().then(|| ExpertActs::planned(plan, group, c, [n, l], spread)).transpose()?,
    })
}

fn out_acts(plan: &mut Plan, group: &'static str, c: &ModelConfig, m: usize, for_use: Use) -> Result<OutActs> {
    let (packed, logits, workspace) = match for_use {
        Use::Train | Use::Score => {
            (m, 0, linear_logprob_workspace(plan.device(), c.vocab_size, c.hidden_size, c.compute))
        }
        Use::Decode => (0, m * c.vocab_size, 0),
    };
    let factor = plan.device().factor_dtype(c.compute);
    let mut of = |dtype, name: &str, len: usize| plan.buffer(group, format!("out.{name}"), dtype, len);
    let (x, h) = (of(c.compute, "x", m * c.hidden_size)?, of(factor, "h", m * c.hidden_size)?);
    let mut b = |name: &str, len: usize| of(DType::F32, name, len);
    Ok(OutActs {
        x,
        rstd: b("rstd", m)?,
        h,
        logprob: b("logprob", packed)?,
        lse: b("lse", packed)?,
        entropy: b("entropy", packed)?,
        logits: b("logits", logits)?,
        workspace: b("workspace", workspace)?,
    })
}

fn grad_acts(plan: &mut Plan, c: &ModelConfig, [n, m]: [usize; 2], spread: Option<&Spread>) -> Result<Grads> {
    let group = "gradients of activations";
    let order = plan.buffer(group, "order", DType::I32, embed_order_len(plan.device(), n))?;
    let norms = [(n, c.hidden_size), (n * c.num_attention_heads, c.head_dim), (n * c.num_key_value_heads, c.head_dim)];
    let widest = norms.map(|(rows, dim)| rmsnorm_parts_len(plan.device(), rows, dim)).into_iter().max().unwrap_or(0);
    let biases = if c.family.biases_heads() { bias_parts_len(n, c.q_dim()) } else { 0 };
    let sums = plan.buffer(group, "parts", DType::F32, widest.max(biases))?;
    let mut low = |name| plan.buffer(group, name, c.compute, n * c.adapter_rank);
    let parts = Parts { sums, low: [low("low")?, low("dlow")?] };
    let normed = if c.family.norms_heads() { n } else { 0 };
    let dense = if c.experts.is_some() { 0 } else { n * c.intermediate_size };
    let factor = plan.device().factor_dtype(c.compute);
    let mut b = |name: &str, len: usize| match name {
        "dgate" | "dup" => plan.buffer(group, name, factor, len),
        _ => plan.buffer(group, name, c.compute, len),
    };
    Ok(Grads {
        dx: b("dx", n * c.hidden_size)?,
        dh: b("dh", n * c.hidden_size)?,
        dq_raw: b("dq_raw", normed * c.q_dim())?,
        dk_raw: b("dk_raw", normed * c.kv_dim())?,
        dq: b("dq", n * c.q_dim())?,
        dk: b("dk", n * c.kv_dim())?,
        dv: b("dv", n * c.kv_dim())?,
        d_o: b("do", n * c.q_dim())?,
        dgate: b("dgate", dense)?,
        dup: b("dup", dense)?,
        ds: b("ds", dense)?,
        dx_out: b("dx_out", m * c.hidden_size)?,
        dh_out: b("dh_out", m * c.hidden_size)?,
        experts: c.experts.is_some().then(|| ExpertGrads::planned(plan, group, c, n, spread)).transpose()?,
        order,
        parts,
    })
}
