//! What a batch of updates did, as the step's row tells it.

use crate::credit::importance::Histogram;
use crate::ops::loss::POLICY_SUMS;

/// What a batch of updates did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Learned {
    /// What [`POLICY_SUMS`] names: the losses are means over updates; KL, entropy and the clipped share are means over all
    /// trained tokens, whatever the loss's aggregation; the last one is a maximum.
    pub sums: [f32; POLICY_SUMS.len()],
    /// Largest |training logprob - rollout logprob| over all trained tokens, before the first update.
    pub logprob_max_abs_diff: f32,
    /// Trained tokens that were compared, and those whose two logprobs have the same bits.
    pub compared_tok: [usize; 2],
    /// Global gradient norm before clipping, mean over applied updates.
    pub grad_norm: f32,
    /// Learning rate of the last applied update.
    pub lr: f32,
    /// Updates applied.
    pub applied: u32,
    /// Updates skipped because something was not finite.
    pub skipped: u32,
    /// What was not finite in the last skipped update.
    pub not_finite: Option<&'static str>,
    /// Ratios and weights of the importance correction, when there is one.
    pub importance: Histogram,
    /// Trained tokens.
    pub trained_tok: usize,
    /// Tokens run through forward and backward.
    pub packed_tok: usize,
    /// Tokens that were not: their rows are those of an episode of their group.
    pub shared_tok: usize,
    /// Seconds in forwards (the check and the reference included).
    pub forward_s: f64,
    /// Seconds in loss and backward.
    pub backward_s: f64,
    /// Seconds in the optimizer.
    pub optimizer_s: f64,
}
