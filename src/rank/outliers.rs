//! Ratings that stray alone: a model that behaves differently in one category.
//!
//! The one idea: the rating with the largest score is given its own value, and keeps it when, seen beside the spread of all
//! others without it, it still stands out after Bonferroni. Judged with itself in the spread, it would hide itself.

use super::btl::{Fit, change_of, halved, loss_of, tied};
use super::games::Games;
use super::influence::{Spread, drift, information, score};
use super::linalg::{Factor, Matrix, beside};
use super::moments::{Moments, Scale, clustered};
use super::residual::Residual;
use super::shape::{Shape, lifted};
use statrs::distribution::{ContinuousCDF, Normal};

/// The chance of a false find on a board without any.
pub const LEVEL: f64 = 0.01;
/// Ratings freed at most.
const MOST: usize = 8;

/// A rating that does not follow the shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlier {
    /// The category.
    pub category: usize,
    /// The model.
    pub model: usize,
    /// How far it stands out, in standard errors beside the spread of all others; its sign is that of the surprise.
    pub z: f64,
}

/// A fit whose outliers are free, and what its ratings can move along.
pub struct Freed {
    /// The ratings.
    pub fit: Fit,
    /// The shape's directions and those of the freed ratings.
    pub maps: Vec<Matrix>,
    /// What was freed, in order.
    pub outliers: Vec<Outlier>,
    /// The variance of all other deviations.
    pub tau2: f64,
    /// How far the ratings lay from the shape before any was freed.
    pub lack_of_fit: f64,
}

/// How scores spread: what a residual is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The model's information.
    Model,
    /// The games' own squares.
    Games,
    /// Clusters of games.
    Clusters,
}

/// The moments of a fit, and its clusters' where they are asked for.
pub fn seen(games: &Games, fit: &Fit, by: By) -> (Moments, Option<Matrix>) {
    let moments = Moments::at(games, &fit.theta, fit.link, Scale::Score);
    let meat = match (by, &games.parts) {
        (By::Clusters, Some(parts)) => Some(clustered(games, parts, &fit.theta, fit.link, Scale::Score)),
        _ => None,
    };
    (moments, meat)
}

/// The spread by which a residual is judged.
pub fn spread<'a>(by: By, moments: &'a Moments, meat: &'a Option<Matrix>) -> Spread<'a> {
    match (by, meat) {
        (By::Clusters, Some(meat)) => Spread::Clusters(meat),
        (By::Model, _) => Spread::Model,
        _ => Spread::Games(moments),
    }
}

/// The two-sided Bonferroni point over `n` ratings.
pub fn critical(n: usize) -> f64 {
    Normal::standard().inverse_cdf(1.0 - 0.5 * LEVEL / n.max(1) as f64)
}

/// Frees the ratings of a fit that stand out, one after the other. The shape's directions stay those of the fit.
///
/// `None` where the information does not determine the shape's coordinates.
pub fn free(games: &Games, shape: Shape, fit: &Fit, lambda: f64, by: By) -> Option<Freed> {
    let (t, m) = games.shape();
    let maps = shape.tangent(&fit.theta)?;
    let mut residual = judged(games, fit, &maps, lambda, by)?;
    let (lack_of_fit, tau2) = (residual.lack_of_fit(), residual.tau2());
    let mut freed = Freed { fit: fit.clone(), maps, outliers: Vec::new(), tau2, lack_of_fit };
    let all = critical(t * m);
    while freed.outliers.len() < MOST {
        let z = residual.cell_z();
        let taken = |at: usize| freed.outliers.iter().any(|o| (o.category, o.model) == (at / m, at % m));
        let Some(at) = (0..z.len()).filter(|at| !taken(*at)).max_by(|x, y| z[*x].abs().total_cmp(&z[*y].abs())) else {
            break;
        };
        let maps = with_own(&freed.maps, at / m, at % m);
        let Some(next) = resolved(games, &freed.fit, &maps, lambda) else { break };
        let Some(after) = judged(games, &next, &maps, lambda, by) else { break };
        let tau2 = after.tau2();
        let beside = residual.z_beside(at, tau2);
        if beside.abs() <= all {
            break;
        }
        freed.outliers.push(Outlier { category: at / m, model: at % m, z: beside });
        freed = Freed { fit: next, maps, tau2, ..freed };
        residual = after;
    }
    Some(freed)
}

fn judged(games: &Games, fit: &Fit, maps: &[Matrix], lambda: f64, by: By) -> Option<Residual> {
    let (moments, meat) = seen(games, fit, by);
    Residual::at(maps, &moments, lambda, spread(by, &moments, &meat))
}

/// Maps with a direction of its own for one rating.
fn with_own(maps: &[Matrix], category: usize, model: usize) -> Vec<Matrix> {
    let own = |(t, map): (usize, &Matrix)| {
        let m = map.nrows();
        let lone = |i: usize| if i == model { 1.0 - 1.0 / m as f64 } else { -1.0 / m as f64 };
        beside(map, &Matrix::from_fn(m, 1, |i, _| if t == category { lone(i) } else { 0.0 }))
    };
    maps.iter().enumerate().map(own).collect()
}

/// The most likely ratings along fixed directions, from a fit.
pub fn resolved(games: &Games, fit: &Fit, maps: &[Matrix], lambda: f64) -> Option<Fit> {
    let (mut fit, start) = (fit.clone(), fit.theta.clone());
    let mut loss = loss_of(games, &fit.theta, fit.link, lambda);
    for _ in 0..60 {
        let mut moments = Moments::at(games, &fit.theta, fit.link, Scale::Score);
        moments.ties = None;
        let drift = drift(maps, &moments);
        let factor = Factor::of(&information(maps, &drift, &moments, lambda))?;
        let score = score(maps, &moments, &fit.theta, lambda);
        let step = lifted(maps, &factor.solve(&score));
        let Some(theta) = halved(&mut loss, |by| {
            let theta = &fit.theta + faer::Scale(by) * &step;
            (loss_of(games, &theta, fit.link, lambda), theta)
        }) else {
            break;
        };
        let link = tied(games, &theta, fit.link);
        fit.change = (&theta - &fit.theta).norm_max().max(change_of(fit.link, link));
        loss = loss_of(games, &theta, link, lambda);
        (fit.theta, fit.link) = (theta, link);
        if fit.change < 1e-11 {
            break;
        }
    }
    (&fit.theta - &start).norm_max().is_finite().then_some(fit)
}
