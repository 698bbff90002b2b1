//! The buffers of a layer's experts, beside those of [`super::activations`].

use super::{ModelConfig, Plan};
use crate::device::{Buffer, DType};
use crate::error::Result;

/// What a layer's experts keep: of N tokens, E experts, R = N A rows.
pub(super) struct ExpertActs {
    /// Logits and probabilities of the router `[N, E]` f32.
    pub logits: Buffer,
    pub probs: Buffer,
    /// Experts of each token i32, and their gates f32 `[N, A]`.
    pub experts: Buffer,
    pub gates: Buffer,
    /// The order of rows by expert and its inverse `[R]`, and where each expert's begin `[E + 1]`; i32.
    pub order: Buffer,
    pub place: Buffer,
    pub offsets: Buffer,
    /// The normed residual stream, a row an expert `[R, C]`, and what the experts make of it.
    pub xs: Buffer,
    pub out: Buffer,
}

/// Their gradients; all layers share them.
pub(super) struct ExpertGrads {
    /// Of gates `[N, A]` and logits `[N, E]`, f32; and of logits as products take them.
    pub dgates: Buffer,
    pub dlogits: Buffer,
    pub dlogits_narrow: Buffer,
    /// Of the experts' outputs and inputs `[R, C]`.
    pub dout: Buffer,
    pub dxs: Buffer,
    /// Tokens of each layer's experts `[L, E]` i32: all that leaves the device of them, in one piece.
    pub counts: Buffer,
    /// Mean probabilities `[E]` and the balance loss `[1]` of a layer, f32.
    pub mean: Buffer,
    pub loss: Buffer,
}

impl ExpertActs {
    pub fn planned(plan: &mut Plan, group: &'static str, c: &ModelConfig, n: usize, l: usize) -> Result<ExpertActs> {
        let (e, r, factor) = (c.experts.map_or(0, |x| x.count), c.mlp_rows(n).0, plan.device().factor_dtype(c.compute));
        let mut b = |dtype, name: &str, len: usize| plan.buffer(group, format!("layers.{l}.{name}"), dtype, len);
        Ok(ExpertActs {
            logits: b(DType::F32, "router_logits", n * e)?,
            probs: b(DType::F32, "router_probs", n * e)?,
            experts: b(DType::I32, "experts", r)?,
            gates: b(DType::F32, "gates", r)?,
            order: b(DType::I32, "order", r)?,
            place: b(DType::I32, "place", r)?,
            offsets: b(DType::I32, "offsets", e + 1)?,
            xs: b(factor, "xs", r * c.hidden_size)?,
            out: b(c.compute, "out", r * c.hidden_size)?,
        })
    }
}

impl ExpertGrads {
    pub fn planned(plan: &mut Plan, group: &'static str, c: &ModelConfig, n: usize) -> Result<ExpertGrads> {
        let (e, r, factor) = (c.experts.map_or(0, |x| x.count), c.mlp_rows(n).0, plan.device().factor_dtype(c.compute));
        let narrow = if c.compute == DType::Bf16 { n * e } else { 0 };
        Ok(ExpertGrads {
            dgates: plan.f32(group, "dgates", r)?,
            dlogits: plan.f32(group, "drouter_logits", n * e)?,
            dlogits_narrow: plan.buffer(group, "drouter_logits, in bf16", DType::Bf16, narrow)?,
            dout: plan.buffer(group, "dout", factor, r * c.hidden_size)?,
            dxs: plan.buffer(group, "dxs", c.compute, r * c.hidden_size)?,
            counts: plan.i32(group, "expert counts", c.num_hidden_layers * e)?,
            mean: plan.f32(group, "mean_probs", e)?,
            loss: plan.f32(group, "balance", 1)?,
        })
    }
}
