//! The buffers of a layer's experts, beside those of [`super::activations`].

use super::spread::{Spread, Told};
use super::{ModelConfig, Plan};
use crate::device::{Buffer, DType};
use crate::error::Result;

/// Of the rows that one rank can have at most, as many as [`Guests`] has room for: about evenly routed, the rows of all ranks
/// come together.
const ROOM: usize = 2;

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
    /// What stands between their products; nothing where they are spread.
    pub mid: Mid,
    /// Whose rows go where, where they are spread.
    pub told: Told,
}

/// What stands between the products of experts, `[R, F]`.
pub(super) struct Mid {
    pub gate: Buffer,
    pub up: Buffer,
    pub s: Buffer,
}

/// Its gradients.
pub(super) struct MidGrads {
    pub ds: Buffer,
    pub dgate: Buffer,
    pub dup: Buffer,
}

/// Room for the rows of all ranks that come to this rank's experts, where they are spread; all layers share it.
pub(super) struct Guests {
    /// Rows there is room for.
    pub rows: usize,
    /// Where each expert's begin among each rank's `[R, E / R + 1]` i32.
    pub starts: Buffer,
    /// The rows, their outputs' gradients, and what goes back of both: outputs and gradients of rows. All `[rows, C]`.
    pub xs: Buffer,
    pub dout: Buffer,
    pub back: Buffer,
    /// What stands between the products.
    pub mid: Mid,
    /// The layer whose rows, all of them, are still here, with what stands between the products.
    pub holds: Option<usize>,
    /// Rows that this rank has sent to others, there and back.
    pub sent: [u64; 2],
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
    /// Of what stands between their products, of as many rows as come together.
    pub mid: MidGrads,
    /// Tokens of each layer's experts `[L, E]` i32: all that leaves the device of them, in one piece.
    pub counts: Buffer,
    /// Mean probabilities `[E]` and the balance loss `[1]` of a layer, f32.
    pub mean: Buffer,
    pub loss: Buffer,
}

impl ExpertActs {
    pub fn planned(
        plan: &mut Plan,
        group: &'static str,
        c: &ModelConfig,
        [n, l]: [usize; 2],
        spread: Option<&Spread>,
    ) -> Result<ExpertActs> {
        let between = if spread.is_some() { 0 } else { c.mlp_rows(n).0 };
        let mid = Mid::planned(plan, group, &format!("layers.{l}."), c, between)?;
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
            mid,
            told: vec![],
        })
    }
}

impl Mid {
    fn planned(plan: &mut Plan, group: &'static str, of: &str, c: &ModelConfig, rows: usize) -> Result<Mid> {
        let (len, factor) = (rows * c.mlp_rows(0).1, plan.device().factor_dtype(c.compute));
        let mut b = |dtype, name: &str| plan.buffer(group, format!("{of}{name}"), dtype, len);
        Ok(Mid { gate: b(c.compute, "gate")?, up: b(c.compute, "up")?, s: b(factor, "s")? })
    }
}

impl MidGrads {
    fn planned(plan: &mut Plan, group: &'static str, c: &ModelConfig, rows: usize) -> Result<MidGrads> {
        let (len, factor) = (rows * c.mlp_rows(0).1, plan.device().factor_dtype(c.compute));
        let mut b = |dtype, name: &str| plan.buffer(group, name, dtype, len);
        Ok(MidGrads { dgate: b(factor, "dgate")?, dup: b(factor, "dup")?, ds: b(c.compute, "ds")? })
    }
}

impl Guests {
    /// For ranks that have `n` tokens each at most.
    pub fn planned(plan: &mut Plan, c: &ModelConfig, n: usize, spread: &Spread) -> Result<Guests> {
        const GROUP: &str = "rows of other ranks";
        let (rows, factor) = (ROOM * c.mlp_rows(n).0, plan.device().factor_dtype(c.compute));
        let mid = Mid::planned(plan, GROUP, "", c, rows)?;
        let mut b = |dtype, name: &str| plan.buffer(GROUP, name, dtype, rows * c.hidden_size);
        let (xs, dout, back) = (b(factor, "xs")?, b(factor, "dout")?, b(c.compute, "out or dxs")?);
        let starts = plan.i32(GROUP, "offsets", spread.starts_of(spread.world()).start)?;
        Ok(Guests { rows, starts, xs, dout, back, mid, holds: None, sent: [0; 2] })
    }

    /// What stands between products, for rows of this rank alone.
    pub fn taken(&mut self) -> &mut Mid {
        self.holds = None;
        &mut self.mid
    }
}

impl ExpertGrads {
    pub fn planned(
        plan: &mut Plan,
        group: &'static str,
        c: &ModelConfig,
        n: usize,
        spread: Option<&Spread>,
    ) -> Result<ExpertGrads> {
        let together = if spread.is_some() { ROOM } else { 1 };
        let mid = MidGrads::planned(plan, group, c, together * c.mlp_rows(n).0)?;
        let (e, r, factor) = (c.experts.map_or(0, |x| x.count), c.mlp_rows(n).0, plan.device().factor_dtype(c.compute));
        let narrow = if c.compute == DType::Bf16 { n * e } else { 0 };
        Ok(ExpertGrads {
            dgates: plan.f32(group, "dgates", r)?,
            dlogits: plan.f32(group, "drouter_logits", n * e)?,
            dlogits_narrow: plan.buffer(group, "drouter_logits, in bf16", DType::Bf16, narrow)?,
            dout: plan.buffer(group, "dout", factor, r * c.hidden_size)?,
            dxs: plan.buffer(group, "dxs", c.compute, r * c.hidden_size)?,
            mid,
            counts: plan.i32(group, "expert counts", c.num_hidden_layers * e)?,
            mean: plan.f32(group, "mean_probs", e)?,
            loss: plan.f32(group, "balance", 1)?,
        })
    }
}
