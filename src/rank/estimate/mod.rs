//! Ratings with their errors, by one of six methods.
//!
//! The one idea: whatever the method, what comes out is ratings and how each game moved them; so boards, bands and
//! overall ratings ask an [`Estimate`] for the covariance of any mixture of categories and need not know the method.
//!
//! The default, `adaptive`, is a low rank with a random residual and freed outliers: it lies between the low-rank
//! estimator of arXiv:2605.29395, whose intervals are too short once the low rank is not exact, and one rating a category,
//! whose intervals are long. Averaged over gaps it covers what it says; a single gap of a category that strays may be
//! covered less often. Who needs every single gap covered takes `btl`.

mod alone;
mod shared;

use super::btl::Fit;
use super::games::{Cell, Games};
use super::graph::Groups;
use super::influence::Influence;
use super::linalg::{Matrix, Vector};
use super::link::Link;
use super::moments::Moments;
use super::outliers::{By, Outlier, spread};
use super::shape::Shape;
use super::{Method, Options, Ties, Weights};

/// The ridge that is taken where a rating would be infinite without one, in games.
pub const RIDGE: f64 = 0.05;
/// Games of a pair below which `--weights pairs` does not go.
const PAIR_GAMES: f64 = 50.0;
/// Coordinates of a gap along what games do not determine, above which the gap is unknown.
const NULL: f64 = 1e-7;
/// Fewest models and categories over which a low rank is worth anything.
const FEWEST: (usize, usize) = (6, 4);

/// Ratings, and how games moved them.
pub struct Estimate {
    /// Ratings `[T, M]` in logits.
    pub theta: Matrix,
    /// The link they were fitted with.
    pub link: Link,
    /// Per category who can be compared.
    pub groups: Vec<Groups>,
    /// What was done, `adaptive` settled.
    pub method: Method,
    /// What ratings may look like; none where each category stands on its own.
    pub shape: Option<Shape>,
    /// Mean held-out loss by shape, where the rank was chosen.
    pub tried: Vec<(Shape, f64)>,
    /// The spread of deviations from the shape, in logits; none where the method has none.
    pub tau: Option<f64>,
    /// How far the ratings lie from the shape, as a standard normal number where they do not.
    pub lack_of_fit: Option<f64>,
    /// Ratings that stray alone.
    pub outliers: Vec<Outlier>,
    /// The ridge, in games.
    pub ridge: f64,
    /// The largest move of a rating by the ridge, in its standard errors.
    pub ridge_moves: f64,
    /// The dimension of what was fitted.
    pub dim: usize,
    /// Covariates by name, with coefficient and standard error at its usual size.
    pub covariates: Vec<(String, f64, f64)>,
    pieces: Vec<Piece>,
}

/// What one fold, or all games, gave.
struct Piece {
    /// Its share of the estimate.
    share: f64,
    influence: Influence,
    moments: Moments,
    meat: Option<Matrix>,
    by: By,
    /// What its scores moved ratings by, and its games, where that is to be taken off the spread.
    centre: Option<(Matrix, f64)>,
}

/// Games as a method takes them.
pub fn prepared(games: Games, options: &Options) -> Games {
    let games = if options.ties == Ties::Drop { games.without_ties() } else { games };
    if options.weights == Weights::Pairs { games.weighted_by_pairs(PAIR_GAMES) } else { games }
}

/// The method that `adaptive` becomes on boards too small for a low rank, and why.
pub fn settled(games: &Games, method: Method) -> (Method, Option<String>) {
    let (t, m) = games.shape();
    if games.votes.is_some() && method == Method::Adaptive {
        let why = "covariates: each category is rated on its own, the coefficients are shared";
        return (Method::Btl, Some(why.into()));
    }
    let small = m < FEWEST.0 || t < FEWEST.1;
    if method != Method::Adaptive || !small {
        return (method, None);
    }
    let why = format!(
        "{m} models in {t} {}: too few for categories to lend each other strength (from {} models, {} categories on), so each \
         is rated on its own",
        if t == 1 { "category" } else { "categories" },
        FEWEST.0,
        FEWEST.1
    );
    (Method::Btl, (t > 1).then_some(why))
}

/// Ratings of prepared games by a settled method.
///
/// # Errors
/// One line, when no rating is finite or the rank asked for is not there.
pub fn estimate(games: &Games, method: Method, options: &Options) -> Result<Estimate, String> {
    if let Some(votes) = &games.votes {
        return alone::with_covariates(games, votes, method, options);
    }
    match method {
        Method::Btl => alone::each_alone(games, options).ok_or_else(unfit),
        Method::Adaptive | Method::LowRank | Method::OneStep | Method::Whitened | Method::Pooled => {
            shared::shared(games, method, options)
        }
    }
}

fn unfit() -> String {
    "no finite ratings were found; give a ridge with --ridge 0.5, or rank each category on its own with --method btl"
        .into()
}

/// The groups of each category.
pub fn groups(games: &Games) -> Vec<Groups> {
    (0..games.categories.len()).map(|category| Groups::of(games.models.len(), games.of(category))).collect()
}

/// The mixture that is one category alone.
pub fn lone(t: usize, category: usize) -> Vec<f64> {
    (0..t).map(|other| if other == category { 1.0 } else { 0.0 }).collect()
}

impl Estimate {
    fn bare(fit: Fit, method: Method, pieces: Vec<Piece>) -> Estimate {
        Estimate {
            theta: fit.theta,
            link: fit.link,
            groups: Vec::new(),
            method,
            shape: None,
            tried: Vec::new(),
            tau: None,
            lack_of_fit: None,
            outliers: Vec::new(),
            ridge: 0.0,
            ridge_moves: 0.0,
            dim: 0,
            covariates: Vec::new(),
            pieces,
        }
    }

    /// The covariance of `sum_t share_t theta_t`, `[M, M]`.
    pub fn covariance(&self, share: &[f64]) -> Matrix {
        let m = self.theta.ncols();
        let mut all = Matrix::zeros(m, m);
        for piece in &self.pieces {
            let mut own = piece.influence.covariance(share, spread(piece.by, &piece.moments, &piece.meat));
            if let Some((moved, games)) = &piece.centre {
                let sum =
                    Vector::from_fn(m, |i| share.iter().enumerate().map(|(t, share)| share * moved[(t, i)]).sum());
                own -= faer::Scale(1.0 / games) * (&sum * sum.transpose());
            }
            all += faer::Scale(piece.share * piece.share) * own;
        }
        all
    }
}

/// Games of each category over all games.
pub fn shares(games: &Games) -> Vec<f64> {
    let all = games.games().max(f64::MIN_POSITIVE);
    let of = |category: usize| games.of(category).iter().map(|cell: &Cell| cell.games).sum::<f64>() / all;
    (0..games.categories.len()).map(of).collect()
}
