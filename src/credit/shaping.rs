//! Reward shaping: other scalars of the same ended episode.
//!
//! The one idea: pure functions of a few facts, so any of them can stand where the surplus stands.

/// What a shape reads of an ended episode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    /// The game's own reward, in [-1, 1].
    pub reward: f64,
    /// The buyer's share of the zone, (B - P) / |B - C|, when there is a deal.
    pub share: Option<f64>,
    /// A violation or an overshoot.
    pub penalty: bool,
    /// The zone is one: B > C.
    pub mutual: bool,
}

/// The sweet-spot tier of a reward: `x` in (0, 1] goes to the mean of itself and the top of its quarter, 1/4, 2/4, 3/4 or
/// 1; what is 0 or below stays. The order is kept, the core is lifted, and inside a tier rewards still differ.
///
/// Source: SSL, arXiv:2601.22491 (four zones of closeness to the best).
/// Differs: zone values are not public to us; quarters of the bargained ratio are ours.
pub fn tier(reward: f64) -> f64 {
    if reward <= 0.0 { reward } else { 0.5 * (reward + (reward * 4.0).ceil().min(4.0) / 4.0) }
}

/// Mutual welfare: `sqrt(U L)` of both sides' utilities in a deal, `U` the buyer's share of the zone and `L` the seller's,
/// each at least 0; no deal 0, a penalty stays.
///
/// Source: GTAlign, arXiv:2510.08872 (Cobb and Douglas, one half each).
/// Differs: the utilities are the bargain's own, not those of a chat's answer.
pub fn welfare(ended: Ended) -> f64 {
    match ended.share {
        _ if ended.penalty => ended.reward,
        Some(share) if ended.mutual => (share.clamp(0.0, 1.0) * (1.0 - share).clamp(0.0, 1.0)).sqrt(),
        Some(_) => ended.reward,
        None => 0.0,
    }
}

/// BATNA-aware: a deal that is worth less than walking away to something of ratio `walk_away` pays -1/2, a better one its
/// share; no deal 0; a penalty stays.
///
/// Source: "Walking Away from Bad Deals" (the public rule: ratio at 0.4 or above, else -0.5; no deal 0; format -1).
pub fn batna(ended: Ended, walk_away: f64) -> f64 {
    match ended.share {
        _ if ended.penalty => ended.reward,
        Some(share) if share >= walk_away => share.min(1.0),
        Some(_) => -0.5,
        None => 0.0,
    }
}

/// Overlong shaping: 0 up to `limit - buffer` tokens, then linear down to -1 at `limit`, -1 beyond.
///
/// Source: DAPO, arXiv:2503.14476, eq. 13.
pub fn overlong(tokens: usize, limit: usize, buffer: usize) -> f64 {
    let free = limit.saturating_sub(buffer);
    if buffer == 0 || tokens <= free { 0.0 } else { -((tokens - free) as f64 / buffer as f64).min(1.0) }
}

/// How a reference answer's logprobs become a reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likelihood {
    /// Per token: answers of all lengths compare.
    Mean,
    /// Of the whole answer.
    Sum,
}

/// The log-probability of a reference answer given the model's own thought, from its tokens' logprobs; 0 for none.
///
/// Source: arXiv:2602.03979: only the logarithm works for long answers, probabilities vanish.
pub fn likelihood(logprobs: &[f32], how: Likelihood) -> f64 {
    let sum: f64 = logprobs.iter().map(|l| *l as f64).sum();
    match how {
        Likelihood::Sum => sum,
        Likelihood::Mean => sum / logprobs.len().max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deal(share: f64) -> Ended {
        Ended { reward: share.clamp(-1.0, 1.0), share: Some(share), penalty: false, mutual: true }
    }

    const NO_DEAL: Ended = Ended { reward: 0.0, share: None, penalty: false, mutual: true };
    const BROKEN: Ended = Ended { reward: -1.0, share: None, penalty: true, mutual: true };

    #[test]
    fn shapes_against_hand_values() {
        assert_eq!([-1.0, 0.0, 0.25, 0.26, 0.7, 1.0].map(tier), [-1.0, 0.0, 0.25, 0.38, 0.725, 1.0]);
        assert_eq!([deal(0.5), deal(0.2), deal(1.2), NO_DEAL, BROKEN].map(welfare), [0.5, 0.4, 0.0, 0.0, -1.0]);
        let outside = Ended { mutual: false, ..deal(-0.3) };
        assert_eq!(welfare(outside), -0.3, "without a zone there is nothing to share");
        let batna = |ended| batna(ended, 0.4);
        assert_eq!([deal(0.4), deal(0.39), deal(-2.0), NO_DEAL, BROKEN].map(batna), [0.4, -0.5, -0.5, 0.0, -1.0]);
        let overlong = |tokens| overlong(tokens, 64, 16);
        assert_eq!([10, 48, 56, 64, 90].map(overlong), [0.0, 0.0, -0.5, -1.0, -1.0]);
        assert_eq!(super::overlong(64, 64, 0), 0.0);
        assert_eq!([Likelihood::Sum, Likelihood::Mean].map(|how| likelihood(&[-1.0, -3.0], how)), [-4.0, -2.0]);
        assert_eq!(likelihood(&[], Likelihood::Mean), 0.0);
    }

    proptest::proptest! {
        #[test]
        fn tiers_keep_the_order(a in -1f64..1.0, b in -1f64..1.0) {
            assert_eq!(a < b, tier(a) < tier(b));
        }
    }
}
