//! Importance weights: what corrects tokens that another policy sampled, and the sequence ratio of GSPO.
//!
//! The one idea: both are functions of the logprobs before and now, `log ratio = now - sampled`. On policy every log ratio
//! is exactly 0 here, because rollout and training forward agree bit for bit; so every weight is exactly 1.

/// A correction for tokens sampled by another policy than the one the update starts from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Correction {
    /// None: the clipped ratio to the sampling policy does it all.
    None,
    /// TIS: `min(ratio, cap)` (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training";
    /// Ionides 2008, truncated importance sampling).
    Truncate {
        /// Largest weight.
        cap: f64,
    },
    /// MIS, IcePop: the ratio inside `[low, high]`, else 0: tokens too far off teach nothing (Ling Team 2025,
    /// arXiv:2510.18855).
    Mask {
        /// Smallest ratio that counts.
        low: f64,
        /// Largest ratio that counts.
        high: f64,
    },
}

/// Over what a ratio is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Each token's own: bounded variance, biased in long sequences.
    Token,
    /// The product over the sequence's trained tokens: unbiased, wide.
    Sequence,
}

impl Correction {
    /// The weight of a log ratio; exactly 1 for 0 when 1 is inside the bounds. Source: as the variants say.
    pub fn weight(self, log_ratio: f64) -> f64 {
        let ratio = log_ratio.clamp(-20.0, 20.0).exp();
        match self {
            Correction::None => 1.0,
            Correction::Truncate { cap } => ratio.min(cap),
            Correction::Mask { low, high } if (low..=high).contains(&ratio) => ratio,
            Correction::Mask { .. } => 0.0,
        }
    }
}

/// Multiplies the loss weights of one sequence's trained tokens, `[T]`, and counts its ratios.
pub fn correct(
    now: &[f32],
    sampled: &[f32],
    how: Correction,
    level: Level,
    weight: &mut [f32],
    counts: &mut Histogram,
) {
    let log_ratio = |i: usize| now[i] as f64 - sampled[i] as f64;
    let whole: f64 = (0..now.len()).map(log_ratio).sum();
    for i in 0..now.len() {
        let log = if level == Level::Token { log_ratio(i) } else { whole };
        let w = how.weight(log);
        counts.note(log.exp(), w);
        weight[i] = (weight[i] as f64 * w) as f32;
    }
}

/// GSPO: the sequence's ratio, the geometric mean of its tokens', stands for each of them. Writes what to give the loss
/// as sampled logprobs, `now - mean log ratio`, so that the ratio it forms is the sequence's.
///
/// `s = exp(mean_t (now_t - sampled_t))`; the gradient of `s A` in each logprob is `s A / T`, which is what the token loss
/// gives with each sequence's tokens weighted 1 / T.
///
/// Source: Zheng et al. 2025, arXiv:2507.18071.
pub fn sequence_ratio(now: &[f32], sampled: &[f32], stand_in: &mut [f32]) {
    let total: f64 = now.iter().zip(sampled).map(|(n, s)| *n as f64 - *s as f64).sum();
    let mean = total / now.len().max(1) as f64;
    for (to, now) in stand_in.iter_mut().zip(now) {
        *to = (*now as f64 - mean) as f32;
    }
}

/// Upper edges of a histogram's bins of ratios; the last bin is open. The middle one holds exactly 1 alone.
pub const EDGES: [f64; 10] = [0.25, 0.5, 0.8, 0.95, 1.0 - 1e-12, 1.0 + 1e-12, 1.05, 1.25, 2.0, 4.0];

/// How often which ratio came up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Histogram {
    /// Tokens in each bin of [`EDGES`].
    pub ratios: [u64; EDGES.len() + 1],
    /// Sum of weights.
    pub weights: f64,
    /// Tokens whose weight differs from their ratio: cut or masked.
    pub bounded: u64,
    /// Tokens whose weight is not exactly 1.
    pub not_one: u64,
}

impl Histogram {
    fn note(&mut self, ratio: f64, weight: f64) {
        let bin = EDGES.iter().position(|edge| ratio < *edge).unwrap_or(EDGES.len());
        self.ratios[bin] += 1;
        self.weights += weight;
        self.bounded += u64::from(weight != ratio);
        self.not_one += u64::from(weight != 1.0);
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Histogram) {
        self.ratios.iter_mut().zip(other.ratios).for_each(|(mine, theirs)| *mine += theirs);
        self.weights += other.weights;
        self.bounded += other.bounded;
        self.not_one += other.not_one;
    }

    /// Tokens counted.
    pub fn tokens(&self) -> u64 {
        self.ratios.iter().sum()
    }
}
