//! Who is better, where, and how sure we are: ratings from pairwise games, with intervals that can be believed.
//!
//! The way of the data: `read` -> `games` (cells) -> `graph` (who can be compared) -> `estimate` (ratings and how games
//! moved them: `btl`, or `fit` over a `shape` with `residual` and `outliers`) -> `bands` -> `board`. Everything is small
//! dense algebra in double precision, in one order, on one thread: the same bits on every run of a machine.
//!
//! **Letters here**: `T` categories, `M` models, `Q = T M`, `D` coordinates of a shape. Ratings are logits of a win.

pub mod bands;
pub mod board;
pub mod btl;
pub mod count;
pub mod covariates;
pub mod estimate;
pub mod fit;
pub mod folds;
pub mod games;
pub mod graph;
pub mod influence;
pub mod linalg;
pub mod link;
pub mod moments;
pub mod outliers;
pub mod rank_choice;
pub mod read;
pub mod residual;
pub mod rewards;
pub mod shape;
mod tucker;

/// What a tie is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ties {
    /// Half a win and half a loss.
    Half,
    /// An outcome of its own: Davidson's model.
    Davidson,
    /// Not played.
    Drop,
}

/// How ratings are estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A low rank with a random residual and freed outliers; each category on its own on a small board.
    Adaptive,
    /// The most likely ratings of a low rank, as if it were exact.
    LowRank,
    /// One step from a low rank fitted on other games.
    OneStep,
    /// The same with whitened scores.
    Whitened,
    /// Each category on its own.
    Btl,
    /// One ranking for all categories.
    Pooled,
}

/// What a game weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// Its own weight, 1 by default.
    Games,
    /// The same over the games of its pair, at least 50.
    Pairs,
}

/// Which gaps a band holds together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// All gaps of a category.
    Category,
    /// All gaps of all categories.
    Board,
    /// The gaps of one model in a category.
    Model,
}

/// How a board is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// How ratings are estimated.
    pub method: Method,
    /// What a tie is.
    pub ties: Ties,
    /// The rank; chosen by held-out games where there is none.
    pub rank: Option<usize>,
    /// Folds of a one-step estimate; 1 is none.
    pub crossfit: usize,
    /// The chance that an interval holds.
    pub level: f64,
    /// Which gaps a band holds together.
    pub family: Family,
    /// What a game weighs.
    pub weights: Weights,
    /// The ridge in games; as needed where there is none.
    pub ridge: Option<f64>,
    /// Seeds folds and draws.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            method: Method::Adaptive,
            ties: Ties::Half,
            rank: None,
            crossfit: 5,
            level: 0.95,
            family: Family::Category,
            weights: Weights::Games,
            ridge: None,
            seed: 0,
        }
    }
}
