//! The buyer's terminal reward, and the share of the bargaining zone it won.
//!
//! Liu et al. 2026, arXiv:2604.09855: a deal at P pays clip((B - P) / |B - C|, -1, 1); no deal pays 0; a price above budget
//! and a broken format or protocol pay -1.

use super::episode::Outcome;
use super::money::Cents;
use super::product::Product;

/// The smallest |B - C| divided by. The paper's own guard is not published; the data set's evaluator uses one dollar, and
/// so do we, so that a few cents on a product without a zone are no triumph and no disaster.
pub const MIN_ZONE: Cents = Cents(100);

/// |B - C| in cents, at least `MIN_ZONE`.
pub fn zone(product: &Product) -> i64 {
    (product.budget.0 - product.cost.0).abs().max(MIN_ZONE.0)
}

/// The reward of an ended episode, in [-1, 1].
pub fn reward(product: &Product, outcome: Outcome) -> f64 {
    match outcome {
        Outcome::Deal { price, .. } => share(product, price).clamp(-1.0, 1.0),
        Outcome::Quit { .. } | Outcome::Deadlock => 0.0,
        Outcome::Overshoot { .. } | Outcome::Violation { .. } => -1.0,
    }
}

/// The reward with the -1 penalties counted as 0: what bargaining alone brought.
pub fn reward_without_penalties(product: &Product, outcome: Outcome) -> f64 {
    match outcome {
        Outcome::Overshoot { .. } | Outcome::Violation { .. } => 0.0,
        _ => reward(product, outcome),
    }
}

/// (B - P) / |B - C| unclipped: the bargained ratio of a deal at `price`.
pub fn share(product: &Product, price: Cents) -> f64 {
    (product.budget.0 - price.0) as f64 / zone(product) as f64
}
