//! The most likely ratings of a shape: Fisher scoring along its directions, and back into it.
//!
//! The one idea: a step is the one-step estimate at the ratings so far, brought back into the shape; steps that do not
//! help are made smaller by damping. Where nothing more is to be gained, the score along every direction is 0.
//!
//! Source: Levenberg 1944; Marquardt 1963; retraction by truncation, Absil and Malick 2012.

use super::Ties;
use super::btl::{self, Fit, change_of, loss_of, tied};
use super::games::Games;
use super::graph::Groups;
use super::influence::{drift, information, score};
use super::linalg::{Factor, symmetric};
use super::moments::{Moments, Scale};
use super::shape::{Shape, lifted};

/// Steps at most.
const STEPS: usize = 300;
/// A change below this ends the fit, in logits.
const SMALL: f64 = 1e-10;
/// The same of a fit that is only compared with others by its held-out loss.
const ROUGH: f64 = 1e-5;
/// The prior of the ratings a fit begins with, in games, and their Newton steps.
const START: (f64, usize) = (2.0, 8);

/// The most likely ratings of a shape, with a ridge `lambda / 2 |theta|^2` in units of games.
///
/// `None` for what is not finite.
pub fn fit(games: &Games, shape: Shape, ties: Ties, lambda: f64) -> Option<Fit> {
    until(games, shape, &start(games, ties)?, lambda, SMALL)
}

/// Where a fit begins, whatever the shape.
pub fn start(games: &Games, ties: Ties) -> Option<Fit> {
    let m = games.models.len();
    let whole = vec![Groups { met: vec![0; m], finite: vec![0; m] }; games.categories.len()];
    btl::fit(games, &whole, ties, START.0, START.1)
}

/// The same as [`fit`], from where it begins, as far as a held-out loss can tell.
pub fn rough(games: &Games, shape: Shape, start: &Fit, lambda: f64) -> Option<Fit> {
    until(games, shape, start, lambda, ROUGH)
}

fn until(games: &Games, shape: Shape, start: &Fit, lambda: f64, small: f64) -> Option<Fit> {
    let mut fit = Fit { theta: shape.project(&start.theta)?, change: f64::INFINITY, steps: 0, ..*start };
    let mut damping = 1e-4;
    while fit.steps < STEPS && fit.change > small {
        let loss = loss_of(games, &fit.theta, fit.link, lambda);
        match step(games, shape, &fit, lambda, damping, loss)? {
            Some(next) => {
                damping = (damping * 0.1_f64).max(1e-14);
                fit = next;
            }
            None if damping > 1e6 => break,
            None => damping = (damping * 10.0).max(1e-10),
        }
        fit.steps += 1;
    }
    fit.theta.norm_max().is_finite().then_some(fit)
}

/// One step; `Some(None)` when it does not help.
fn step(games: &Games, shape: Shape, fit: &Fit, lambda: f64, damping: f64, loss: f64) -> Option<Option<Fit>> {
    let maps = shape.tangent(&fit.theta)?;
    let mut moments = Moments::at(games, &fit.theta, fit.link, Scale::Score);
    // Ties take their own step: along the ratings alone, the information is that of the ratings.
    moments.ties = None;
    let mut info = information(&maps, &drift(&maps, &moments), &moments, lambda);
    let d = info.ncols();
    let damp = damping * (0..d).map(|i| info[(i, i)]).sum::<f64>() / d.max(1) as f64;
    (0..d).for_each(|i| info[(i, i)] += damp);
    let score = score(&maps, &moments, &fit.theta, lambda);
    let Some(factor) = Factor::of(&symmetric(&info)) else { return Some(None) };
    let Some(theta) = shape.project(&(&fit.theta + lifted(&maps, &factor.solve(&score)))) else { return Some(None) };
    let link = tied(games, &theta, fit.link);
    let new = loss_of(games, &theta, link, lambda);
    if !new.is_finite() || new > loss + 1e-13 * loss.abs() {
        return Some(None);
    }
    let change = (&theta - &fit.theta).norm_max().max(change_of(fit.link, link));
    Some(Some(Fit { theta, link, change, ..*fit }))
}
