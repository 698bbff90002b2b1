//! Aggregation: the weight of each trained token of an update, before anything else weighs it.
//!
//! The one idea: the loss is a weighted sum over tokens, and every published mean is one choice of weights.

/// How tokens become one loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregation {
    /// `1 / all tokens`: long episodes count as much as their tokens (DAPO, arXiv:2503.14476, eq. 12).
    TokenMean,
    /// `1 / (sequences * own tokens)`: each episode counts once (GRPO, arXiv:2402.03300, eq. 3; GSPO).
    SequenceMean,
    /// `1 / (sequences * length)` with a constant length: no bias towards long or short (Dr.GRPO, arXiv:2503.20783).
    Constant {
        /// The length, in tokens.
        length: usize,
    },
}

impl Aggregation {
    /// The weight of every trained token of a sequence with `own` of them, in an update of `sequences` with `all` in sum.
    pub fn weight(self, own: usize, all: usize, sequences: usize) -> f32 {
        match self {
            Aggregation::TokenMean => 1.0 / all as f32,
            Aggregation::SequenceMean => (1.0 / (sequences as f64 * own.max(1) as f64)) as f32,
            Aggregation::Constant { length } => (1.0 / (sequences as f64 * length.max(1) as f64)) as f32,
        }
    }
}
