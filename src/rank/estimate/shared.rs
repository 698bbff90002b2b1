//! Categories rated together: one ranking, a low rank, one step from it, and the default that lies between it and each alone.

use super::super::btl::Fit;
use super::super::fit;
use super::super::folds;
use super::super::games::Games;
use super::super::graph::Groups;
use super::super::influence::{Influence, Spread, drift, information};
use super::super::linalg::{Matrix, Vector, pseudo_inverse};
use super::super::link::Link;
use super::super::moments::{Moments, Scale, clustered};
use super::super::outliers::{self, By};
use super::super::rank_choice;
use super::super::shape::Shape;
use super::super::{Method, Options};
use super::{Estimate, NULL, Piece, RIDGE, groups, lone, unfit};
use crate::noise::Noise;

/// Ratings of a shape, given or chosen by held-out games.
pub(super) fn shared(games: &Games, method: Method, options: &Options) -> Result<Estimate, String> {
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
        let covariance = influence.covariance(&lone(t, category), Spread::Model);
        (0..theta.ncols())
            .map(|i| moved[(category, i)].abs() / covariance[(i, i)].max(f64::MIN_POSITIVE).sqrt())
            .fold(0.0, f64::max)
    };
    (0..t).map(worst).fold(0.0, f64::max)
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
