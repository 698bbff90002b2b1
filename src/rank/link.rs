//! From a gap of strength to what comes of a game: Bradley-Terry, and Davidson's ties.
//!
//! The one idea: everything above uses a link through its mean, its information and its loss alone, so ties are another
//! link. `eta` is the gap in logits, a score is 1 for a win of the first, 1/2 for a tie, 0 for a loss.
//!
//! Source: Bradley and Terry 1952, "Rank analysis of incomplete block designs"; Davidson 1970, "On extending the
//! Bradley-Terry model to accommodate ties".

use super::games::Tally;

/// How a gap becomes outcomes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Link {
    /// `P(win) = 1 / (1 + exp(-eta))`; a tie is half a win and half a loss.
    Half,
    /// Win, loss and tie as `exp(eta/2)`, `exp(-eta/2)` and `nu`.
    Davidson {
        /// `log nu`.
        log_nu: f64,
    },
}

/// A link at one gap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The expected score.
    pub mean: f64,
    /// Its derivative: the information of a game on the gap.
    pub info: f64,
    /// The chance of a tie, where the link knows one.
    pub tie: f64,
    /// The information that a game gives on the gap and `log nu` together.
    pub cross: f64,
}

impl Link {
    /// Mean and information at a gap.
    pub fn at(self, eta: f64) -> Point {
        match self {
            Link::Half => {
                let (low, high) = logistic(eta);
                Point { mean: high, info: low * high, tie: 0.0, cross: 0.0 }
            }
            Link::Davidson { log_nu } => {
                let [win, loss, tie] = davidson(eta, log_nu);
                let tilt = win - loss;
                let info = 0.25 * (win + loss - tilt * tilt);
                Point { mean: win + 0.5 * tie, info, tie, cross: -0.5 * tie * tilt }
            }
        }
    }

    /// The negative log-likelihood of games at a gap.
    pub fn loss(self, eta: f64, won: &Tally) -> f64 {
        let [win, loss, tie] = self.losses(eta);
        won.a * win + won.b * loss + won.tie * tie
    }

    /// The loss of one win, one defeat, one tie.
    pub fn losses(self, eta: f64) -> [f64; 3] {
        match self {
            Link::Half => {
                let (win, loss) = (softplus(-eta), softplus(eta));
                [win, loss, 0.5 * (win + loss)]
            }
            Link::Davidson { log_nu } => {
                let all = log_total(eta, log_nu);
                [all - 0.5 * eta, all + 0.5 * eta, all - log_nu]
            }
        }
    }

    /// True when the link describes ties, so that its information is the variance of a score.
    pub fn knows_ties(self) -> bool {
        matches!(self, Link::Davidson { .. })
    }
}

/// `1 / (1 + exp(eta))` and `1 / (1 + exp(-eta))`.
fn logistic(eta: f64) -> (f64, f64) {
    let e = (-eta.abs()).exp();
    let (small, large) = (e / (1.0 + e), 1.0 / (1.0 + e));
    if eta >= 0.0 { (small, large) } else { (large, small) }
}

/// `log(1 + exp(x))`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `log(exp(eta/2) + exp(-eta/2) + nu)`.
fn log_total(eta: f64, log_nu: f64) -> f64 {
    let top = (0.5 * eta.abs()).max(log_nu);
    top + ((0.5 * eta - top).exp() + (-0.5 * eta - top).exp() + (log_nu - top).exp()).ln()
}

/// The chances of win, loss and tie.
fn davidson(eta: f64, log_nu: f64) -> [f64; 3] {
    let all = log_total(eta, log_nu);
    [(0.5 * eta - all).exp(), (-0.5 * eta - all).exp(), (log_nu - all).exp()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_and_cross_are_derivatives_of_the_loss() {
        let won = Tally { a: 3.0, b: 1.0, tie: 2.0 };
        for eta in [-40.0, -1.3, 0.0, 0.4, 3.0, 40.0] {
            for link in [Link::Half, Link::Davidson { log_nu: -0.4 }] {
                let h = 1e-5;
                let slope = (link.loss(eta + h, &won) - link.loss(eta - h, &won)) / (2.0 * h);
                let point = link.at(eta);
                assert!((slope + won.score() - won.total() * point.mean).abs() < 1e-6, "{link:?} at {eta}");
                let bend = (link.at(eta + h).mean - link.at(eta - h).mean) / (2.0 * h);
                assert!((bend - point.info).abs() < 1e-8, "{link:?} at {eta}");
            }
            let tied = |log_nu: f64| Link::Davidson { log_nu }.at(eta).mean;
            let slope = (tied(-0.4 + 1e-5) - tied(-0.4 - 1e-5)) / 2e-5;
            assert!((slope - Link::Davidson { log_nu: -0.4 }.at(eta).cross).abs() < 1e-8, "at {eta}");
        }
    }
}
