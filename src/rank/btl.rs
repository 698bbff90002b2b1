//! Ratings of each category on its own: the maximum likelihood of Bradley-Terry by Newton's method.
//!
//! The one idea: a category's information is a Laplacian, made regular by tying each group of comparable models to its
//! mean; so one factor serves the step, the variance, and models that stand alone.

use super::Ties;
use super::games::Games;
use super::graph::{Groups, listed};
use super::linalg::{Factor, Matrix, Vector};
use super::link::Link;
use super::moments::{Moments, Scale};

/// Newton steps at most; a handful is usual.
const STEPS: usize = 100;
/// A step below this ends the fit, in logits.
const SMALL: f64 = 1e-12;
/// Halvings of a step that does not help.
const HALVINGS: i32 = 30;
/// Bounds of `log nu`.
const LOG_NU: f64 = 12.0;

/// Ratings and the link they were fitted with.
#[derive(Debug, Clone)]
pub struct Fit {
    /// Ratings `[T, M]` in logits; each group of comparable models has mean 0.
    pub theta: Matrix,
    /// The link, its ties fitted.
    pub link: Link,
    /// Steps taken.
    pub steps: usize,
    /// The last change, in logits; small when the fit has converged.
    pub change: f64,
}

/// Games whose gaps are finite: those inside of a group. Others say nothing once their gap is infinite.
pub fn within(games: &Games, groups: &[Groups]) -> Games {
    let inside = |at: usize| {
        let cell = &games.cells[at];
        groups[cell.category].finite[cell.a] == groups[cell.category].finite[cell.b]
    };
    let kept: Vec<usize> = (0..games.cells.len()).filter(|at| inside(*at)).collect();
    let mut place = vec![None; games.cells.len()];
    kept.iter().enumerate().for_each(|(new, old)| place[*old] = Some(new));
    let parts = games.parts.as_ref().map(|parts| {
        parts.iter().filter_map(|part| Some(super::games::Part { cell: place[part.cell]?, ..*part })).collect()
    });
    Games { cells: kept.iter().map(|at| games.cells[*at]).collect(), parts, ..games.clone() }
}

/// The fit of each category; a ridge `lambda / 2 |theta|^2` in units of games where `lambda` is above 0.
///
/// `None` for what is not finite.
pub fn fit(games: &Games, groups: &[Groups], ties: Ties, lambda: f64, steps: usize) -> Option<Fit> {
    let (t, m) = games.shape();
    let mut fit = Fit { theta: Matrix::zeros(t, m), link: first_link(games, ties), steps: 0, change: f64::INFINITY };
    let mut loss = loss_of(games, &fit.theta, fit.link, lambda);
    while fit.steps < steps.min(STEPS) && fit.change > SMALL {
        let moments = Moments::at(games, &fit.theta, fit.link, Scale::Score);
        let mut step = Matrix::zeros(t, m);
        for category in 0..t {
            let score = Vector::from_fn(m, |i| moments.score[category][i] - lambda * fit.theta[(category, i)]);
            let factor = Factor::of(&grounded(&moments.info[category], &groups[category], lambda))?;
            let d = factor.solve(&score);
            (0..m).for_each(|i| step[(category, i)] = d[i]);
        }
        let taken = halved(&mut loss, |by| {
            let theta = &fit.theta + faer::Scale(by) * &step;
            (loss_of(games, &theta, fit.link, lambda), theta)
        });
        fit.change = 0.0;
        if let Some(theta) = taken {
            fit.change = (&theta - &fit.theta).norm_max();
            fit.theta = theta;
        }
        let link = tied(games, &fit.theta, fit.link);
        fit.change = fit.change.max(change_of(fit.link, link));
        fit.link = link;
        loss = loss_of(games, &fit.theta, fit.link, lambda);
        fit.steps += 1;
    }
    fit.theta.norm_max().is_finite().then_some(fit)
}

/// The first of ever smaller steps that does not raise the loss, which is then its loss.
pub fn halved<T>(loss: &mut f64, mut step: impl FnMut(f64) -> (f64, T)) -> Option<T> {
    for halving in 0..HALVINGS {
        let (new, taken) = step(0.5_f64.powi(halving));
        // Differences below the last bits of the sum are no rise.
        if new <= *loss + 1e-13 * loss.abs() {
            *loss = new;
            return Some(taken);
        }
    }
    None
}

/// The negative log-likelihood and the ridge.
pub fn loss_of(games: &Games, theta: &Matrix, link: Link, lambda: f64) -> f64 {
    let gap = |c: &super::games::Cell| theta[(c.category, c.a)] - theta[(c.category, c.b)];
    let loss: f64 = games.cells.iter().map(|cell| link.loss(gap(cell), &cell.won)).sum();
    loss + 0.5 * lambda * theta.squared_norm_l2()
}

/// The link a fit begins with.
pub fn first_link(games: &Games, ties: Ties) -> Link {
    if ties != Ties::Davidson {
        return Link::Half;
    }
    let (tied, all) = games.cells.iter().fold((0.0, 0.0), |(t, n), cell| (t + cell.won.tie, n + cell.won.total()));
    Link::Davidson { log_nu: ((2.0 * tied).max(1e-6) / (all - tied).max(1e-6)).ln().clamp(-LOG_NU, LOG_NU) }
}

/// The link with `log nu` at its maximum for these ratings.
pub fn tied(games: &Games, theta: &Matrix, link: Link) -> Link {
    let Link::Davidson { mut log_nu } = link else { return link };
    for _ in 0..50 {
        let (mut score, mut info) = (0.0, 0.0);
        for cell in &games.cells {
            let tie = Link::Davidson { log_nu }.at(theta[(cell.category, cell.a)] - theta[(cell.category, cell.b)]).tie;
            score += cell.won.tie - cell.won.total() * tie;
            info += cell.won.total() * tie * (1.0 - tie);
        }
        let step = (score / info.max(f64::MIN_POSITIVE)).clamp(-1.0, 1.0);
        let next = (log_nu + step).clamp(-LOG_NU, LOG_NU);
        let moved = (next - log_nu).abs();
        log_nu = next;
        if moved < SMALL {
            break;
        }
    }
    Link::Davidson { log_nu }
}

/// How far `log nu` moved.
pub fn change_of(from: Link, to: Link) -> f64 {
    match (from, to) {
        (Link::Davidson { log_nu: x }, Link::Davidson { log_nu: y }) => (x - y).abs(),
        _ => 0.0,
    }
}

/// A Laplacian with each group tied to its mean as firmly as its games tie it together, so that it has an inverse.
fn grounded(info: &Matrix, groups: &Groups, lambda: f64) -> Matrix {
    let mut all = info.clone();
    (0..all.nrows()).for_each(|i| all[(i, i)] += lambda);
    for group in listed(&groups.finite) {
        let firm = firmness(info, &group) / group.len() as f64;
        for i in &group {
            for j in &group {
                all[(*i, *j)] += firm;
            }
        }
    }
    all
}

/// The mean information of a group's models; 1 for a model alone.
fn firmness(info: &Matrix, group: &[usize]) -> f64 {
    let mean = group.iter().map(|i| info[(*i, *i)]).sum::<f64>() / group.len() as f64;
    if mean > 0.0 { mean } else { 1.0 }
}

/// The inverse of a category's information off the groups' means: the covariance of ratings centred in each group.
pub fn inverse(info: &Matrix, groups: &Groups) -> Option<Matrix> {
    let mut inverse = Factor::of(&grounded(info, groups, 0.0))?.inverse();
    for group in listed(&groups.finite) {
        let mean = 1.0 / (firmness(info, &group) * group.len() as f64);
        for i in &group {
            for j in &group {
                inverse[(*i, *j)] -= mean;
            }
        }
    }
    Some(inverse)
}
