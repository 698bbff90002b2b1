//! Ratings with their errors, by one of six methods.
//!
//! The one idea: whatever the method, what comes out is ratings and how each game moved them; so boards, bands and
//! overall ratings ask an [`Estimate`] for the covariance of any mixture of categories and need not know the method.
//!
//! The default, `adaptive`, is a low rank with a random residual and freed outliers: it lies between the low-rank
//! estimator of arXiv:2605.29395, whose intervals are too short once the low rank is not exact, and one rating a category,
//! whose intervals are long. Averaged over gaps it covers what it says; a single gap of a category that strays may be
//! covered less often. Who needs every single gap covered takes `btl`.

use super::btl::{self, Fit};
use super::folds;
use super::games::{Cell, Games};
use super::graph::Groups;
use super::influence::{Influence, drift, information};
use super::linalg::{Matrix, Vector, pseudo_inverse};
use super::link::Link;
use super::moments::{Moments, Scale, clustered};
use super::outliers::{self, By, Outlier, spread};
use super::rank_choice;
use super::shape::Shape;
use super::{Method, Options, Ties, Weights};
use crate::noise::Noise;
use crate::rank::fit;

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
    match method {
        Method::Btl => each_alone(games, options).ok_or_else(unfit),
        Method::Adaptive | Method::LowRank | Method::OneStep | Method::Whitened | Method::Pooled => {
            shared(games, method, options)
        }
    }
}

fn unfit() -> String {
    "no finite ratings were found; give a ridge with --ridge 0.5, or rank each category on its own with --method btl"
        .into()
}

/// By what the scores' spread is judged: clusters, the model where it knows all outcomes, else the games' squares.
fn by(games: &Games, link: Link) -> By {
    let tied = games.cells.iter().any(|cell| cell.won.tie > 0.0);
    let weighted = games.cells.iter().any(|cell| cell.won != cell.squares);
    match &games.parts {
        Some(_) => By::Clusters,
        None if weighted || (tied && !link.knows_ties()) => By::Games,
        None => By::Model,
    }
}

/// The groups of each category.
pub fn groups(games: &Games) -> Vec<Groups> {
    (0..games.categories.len()).map(|category| Groups::of(games.models.len(), games.of(category))).collect()
}

fn each_alone(games: &Games, options: &Options) -> Option<Estimate> {
    let groups = groups(games);
    let inside = btl::within(games, &groups);
    let fit = btl::fit(&inside, &groups, options.ties, 0.0, usize::MAX)?;
    let by = if games.parts.is_some() { By::Clusters } else { By::Games };
    let (moments, meat) = outliers::seen(&inside, &fit, by);
    let local: Option<Vec<Matrix>> =
        moments.info.iter().zip(&groups).map(|(info, groups)| btl::inverse(info, groups)).collect();
    let influence = Influence::local(local?, &moments)?;
    let ranks = groups.iter().map(|g| g.finite.len() - g.by_size().len()).sum();
    let piece = Piece { share: 1.0, influence, moments, meat, by, centre: None };
    Some(Estimate { groups, dim: ranks, ..Estimate::bare(fit, Method::Btl, vec![piece]) })
}

fn shared(games: &Games, method: Method, options: &Options) -> Result<Estimate, String> {
    let whole = groups(games).iter().all(Groups::whole);
    let ridge = options.ridge.unwrap_or(if whole { 0.0 } else { RIDGE });
    let (shape, tried) = match (method, options.rank) {
        (Method::Pooled, _) => (Shape::Pooled, Vec::new()),
        (_, Some(rank)) => (rank_choice::shape_of(games, rank).ok_or_else(|| no_rank(games, rank))?, Vec::new()),
        (_, None) => rank_choice::choose(games, options.ties, ridge, options.seed).ok_or_else(unfit)?,
    };
    let fit = fit::fit(games, shape, options.ties, ridge).ok_or_else(unfit)?;
    let made = match method {
        Method::Adaptive => adaptive(games, shape, fit, ridge),
        Method::OneStep | Method::Whitened => stepped(games, shape, method, options, ridge),
        _ => plain(games, shape, method, fit, ridge),
    };
    let mut made = made.ok_or_else(unfit)?;
    (made.tried, made.shape, made.ridge) = (tried, Some(shape), ridge);
    Ok(made)
}

fn no_rank(games: &Games, rank: usize) -> String {
    let shapes = rank_choice::shapes(games).len() - 1;
    format!("--rank {rank}: this board has ranks 0 to {shapes}")
}

/// The fit itself, with the sandwich or cluster errors.
fn plain(games: &Games, shape: Shape, method: Method, fit: Fit, ridge: f64) -> Option<Estimate> {
    let by = if games.parts.is_some() { By::Clusters } else { By::Games };
    let maps = shape.tangent(&fit.theta)?;
    let (moments, meat) = outliers::seen(games, &fit, by);
    let influence = Influence::shared(&maps, &moments, firm(ridge))?;
    let groups = known(&maps, &moments)?;
    let moves = ridge_moves(&influence, &moments, &fit.theta, ridge);
    let piece = Piece { share: 1.0, influence, moments, meat, by, centre: None };
    Some(Estimate { groups, ridge_moves: moves, dim: maps[0].ncols(), ..Estimate::bare(fit, method, vec![piece]) })
}

/// Low rank, freed outliers, random residual.
fn adaptive(games: &Games, shape: Shape, fit: Fit, ridge: f64) -> Option<Estimate> {
    let by = by(games, fit.link);
    let freed = outliers::free(games, shape, &fit, firm(ridge), by)?;
    let (mut moments, meat) = outliers::seen(games, &freed.fit, by);
    let influence = Influence::residual(&freed.maps, &moments, firm(ridge), freed.tau2)?;
    let groups = known(&freed.maps, &moments)?;
    let moves = ridge_moves(&influence, &moments, &freed.fit.theta, ridge);
    for (t, score) in moments.score.iter_mut().enumerate() {
        (0..score.nrows()).for_each(|i| score[i] -= ridge * freed.fit.theta[(t, i)]);
    }
    let theta = &freed.fit.theta + influence.moved(&moments);
    let dim = freed.maps[0].ncols();
    let piece = Piece { share: 1.0, influence, moments, meat, by, centre: None };
    Some(Estimate {
        theta,
        groups,
        tau: Some(freed.tau2.sqrt()),
        lack_of_fit: Some(freed.lack_of_fit),
        outliers: freed.outliers,
        ridge_moves: moves,
        dim,
        ..Estimate::bare(freed.fit, Method::Adaptive, vec![piece])
    })
}

/// One step from a fit on other games, each fold in turn.
fn stepped(games: &Games, shape: Shape, method: Method, options: &Options, ridge: f64) -> Option<Estimate> {
    let scale = if method == Method::Whitened { Scale::Whitened } else { Scale::Score };
    let all = games.games();
    let parts = match options.crossfit {
        0 | 1 => vec![games.clone()],
        k => folds::split(games, k, Noise::new(options.seed, 0x6372_6F73)),
    };
    let (mut theta, mut pieces, mut last) =
        (Matrix::zeros(games.categories.len(), games.models.len()), Vec::new(), None);
    for part in &parts {
        let aux = if parts.len() == 1 { games.clone() } else { folds::rest(games, part) };
        let fit = fit::fit(&aux, shape, options.ties, ridge)?;
        let maps = shape.tangent(&fit.theta)?;
        let of_aux = Moments::at(&aux, &fit.theta, fit.link, scale);
        let moments = Moments::at(part, &fit.theta, fit.link, scale);
        let share = part.games() / all;
        let influence = Influence::shared(&maps, &of_aux, firm(ridge))?.rescaled(part.games() / aux.games());
        let moved = influence.moved(&moments);
        theta += faer::Scale(share) * (&fit.theta + &moved);
        let meat = part.parts.as_ref().map(|parts| clustered(part, parts, &fit.theta, fit.link, scale));
        let by = if meat.is_some() { By::Clusters } else { By::Games };
        pieces.push(Piece { share, influence, moments, meat, by, centre: Some((moved, part.games())) });
        last = Some((fit, maps, of_aux));
    }
    let (fit, maps, moments) = last?;
    let groups = known(&maps, &moments)?;
    let dim = maps[0].ncols();
    Some(Estimate { theta, groups, dim, ..Estimate::bare(fit, method, pieces) })
}

/// A ridge that leaves an inverse where games determine nothing.
fn firm(ridge: f64) -> f64 {
    ridge.max(1e-12)
}

/// Who can be compared: the groups of models that what games leave open moves together.
fn known(maps: &[Matrix], moments: &Moments) -> Option<Vec<Groups>> {
    let info = information(maps, &drift(maps, moments), moments, 0.0);
    let (_, null) = pseudo_inverse(&info)?;
    let d = maps[0].ncols();
    let of = |map: &Matrix| {
        let open = map * null.subrows(0, d);
        let same = |a: usize, b: usize| (0..open.ncols()).all(|k| (open[(a, k)] - open[(b, k)]).abs() <= NULL);
        let mut group: Vec<usize> = Vec::new();
        let mut first: Vec<usize> = Vec::new();
        for model in 0..map.nrows() {
            let at = first.iter().position(|other| same(*other, model)).unwrap_or_else(|| {
                first.push(model);
                first.len() - 1
            });
            group.push(at);
        }
        Groups { met: group.clone(), finite: group }
    };
    Some(maps.iter().map(of).collect())
}

/// The largest move of a rating by the ridge, in its standard errors.
fn ridge_moves(influence: &Influence, moments: &Moments, theta: &Matrix, ridge: f64) -> f64 {
    if ridge <= 0.0 {
        return 0.0;
    }
    let mut pull = moments.clone();
    pull.ties = None;
    for (t, score) in pull.score.iter_mut().enumerate() {
        *score = Vector::from_fn(score.nrows(), |i| ridge * theta[(t, i)]);
    }
    let moved = influence.moved(&pull);
    let t = theta.nrows();
    let worst = |category: usize| {
        let covariance = influence.covariance(&lone(t, category), super::influence::Spread::Model);
        (0..theta.ncols())
            .map(|i| moved[(category, i)].abs() / covariance[(i, i)].max(f64::MIN_POSITIVE).sqrt())
            .fold(0.0, f64::max)
    };
    (0..t).map(worst).fold(0.0, f64::max)
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
