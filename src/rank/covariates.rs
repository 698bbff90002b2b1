//! Ratings of each category beside what else moves a vote: length, form, position.
//!
//! The one idea: a covariate adds its coefficient, shared by all categories, to a game's gap, so that ratings are those of
//! equal covariates. Games must then be walked one by one. Coefficients are those of a
//! covariate's usual size, its root mean square.
//!
//! Source: the contextual model of arXiv:2403.04132 and the style control that followed it.

use super::btl::{self, halved};
use super::games::{Games, Vote, Votes};
use super::graph::Groups;
use super::influence::Influence;
use super::linalg::{Matrix, Vector};
use super::link::Link;
use super::moments::{edge, residual};

/// Newton steps at most, and the change that ends them.
const STEPS: usize = 100;
const SMALL: f64 = 1e-12;

/// A fit with covariates.
pub struct Fit {
    /// Ratings `[T, M]`.
    pub theta: Matrix,
    /// Each covariate's coefficient at its usual size, `[k]`.
    pub coefficients: Vec<f64>,
    /// How games move both.
    pub influence: Influence,
    /// The sum of squares of scores, by cluster where there are some, `[Q + k, Q + k]`.
    pub meat: Matrix,
}

/// Sums at a point.
struct Sums {
    info: Vec<Matrix>,
    cross: Vec<Matrix>,
    own: Matrix,
    score: Vec<Vector>,
    own_score: Vector,
    loss: f64,
}

/// Fits games inside of their groups; a ridge `lambda / 2 |coefficients|^2`.
///
/// `None` for what is not finite, as covariates that are no more than models' names.
pub fn fit(games: &Games, votes: &Votes, groups: &[Groups], lambda: f64) -> Option<Fit> {
    let ((t, m), k) = (games.shape(), votes.names.len());
    let x = standardised(votes);
    let inside: Vec<usize> = (0..votes.all.len()).filter(|at| within(games, groups, &votes.all[*at])).collect();
    let at = |theta: &Matrix, beta: &Vector| sums(games, votes, &x, &inside, theta, beta, lambda);
    let (mut theta, mut beta) = (Matrix::zeros(t, m), Vector::zeros(k));
    let mut now = at(&theta, &beta);
    for _ in 0..STEPS {
        let influence = now.influence(groups)?;
        let (d_theta, d_beta) = now.step(&influence, groups)?;
        let mut loss = now.loss;
        let Some((next, by)) = halved(&mut loss, |by| {
            let next = at(&(&theta + faer::Scale(by) * &d_theta), &(&beta + faer::Scale(by) * &d_beta));
            (next.loss, (next, by))
        }) else {
            break;
        };
        (theta, beta, now) = (&theta + faer::Scale(by) * &d_theta, &beta + faer::Scale(by) * &d_beta, next);
        if d_theta.norm_max().max(d_beta.norm_max()) * by < SMALL {
            break;
        }
    }
    let influence = now.influence(groups)?;
    let meat = meat(games, votes, &x, &inside, &theta, &beta);
    let finite = theta.norm_max().is_finite() && beta.norm_max().is_finite();
    finite.then(|| Fit { theta, coefficients: beta.iter().copied().collect(), influence, meat })
}

fn within(games: &Games, groups: &[Groups], vote: &Vote) -> bool {
    let cell = &games.cells[vote.cell];
    groups[cell.category].finite[cell.a] == groups[cell.category].finite[cell.b]
}

/// Features over their root mean squares, which do not depend on who stands first.
fn standardised(votes: &Votes) -> Vec<f64> {
    let (k, n) = (votes.names.len(), votes.all.len() as f64);
    let column = |j: usize| votes.features.iter().skip(j).step_by(k);
    let sizes: Vec<f64> = (0..k).map(|j| (column(j).map(|x| x * x).sum::<f64>() / n).sqrt()).collect();
    let over = |(at, x): (usize, &f64)| if sizes[at % k] > 0.0 { x / sizes[at % k] } else { 0.0 };
    votes.features.iter().enumerate().map(over).collect()
}

/// The gap that a game was played at.
fn gap(games: &Games, vote: &Vote, x: &[f64], theta: &Matrix, beta: &Vector) -> f64 {
    let cell = &games.cells[vote.cell];
    let styled: f64 = x.iter().zip(beta.iter()).map(|(x, beta)| x * beta).sum();
    theta[(cell.category, cell.a)] - theta[(cell.category, cell.b)] + styled
}

fn sums(games: &Games, votes: &Votes, x: &[f64], inside: &[usize], theta: &Matrix, beta: &Vector, lambda: f64) -> Sums {
    let ((t, m), k) = (games.shape(), beta.nrows());
    let mut all = Sums {
        info: vec![Matrix::zeros(m, m); t],
        cross: vec![Matrix::zeros(m, k); t],
        own: Matrix::from_fn(k, k, |i, j| if i == j { lambda } else { 0.0 }),
        score: vec![Vector::zeros(m); t],
        own_score: Vector::from_fn(k, |i| -lambda * beta[i]),
        loss: 0.5 * lambda * beta.squared_norm_l2(),
    };
    for at in inside {
        let (vote, x) = (&votes.all[*at], &x[at * k..(at + 1) * k]);
        let (cell, eta) = (&games.cells[vote.cell], gap(games, vote, x, theta, beta));
        let point = Link::Half.at(eta);
        let (weight, off) = (vote.won.total() * point.info, residual(&vote.won, &point));
        let t = cell.category;
        edge(&mut all.info[t], cell.a, cell.b, weight);
        (all.score[t][cell.a], all.score[t][cell.b]) = (all.score[t][cell.a] + off, all.score[t][cell.b] - off);
        for i in 0..k {
            all.cross[t][(cell.a, i)] += weight * x[i];
            all.cross[t][(cell.b, i)] -= weight * x[i];
            all.own_score[i] += off * x[i];
            (0..k).for_each(|j| all.own[(i, j)] += weight * x[i] * x[j]);
        }
        all.loss += Link::Half.loss(eta, &vote.won);
    }
    all
}

impl Sums {
    fn influence(&self, groups: &[Groups]) -> Option<Influence> {
        let local: Option<Vec<Matrix>> =
            self.info.iter().zip(groups).map(|(info, groups)| btl::inverse(info, groups)).collect();
        Influence::linked(local?, &self.cross, &self.own)
    }

    fn step(&self, influence: &Influence, groups: &[Groups]) -> Option<(Matrix, Vector)> {
        let mut left = self.own_score.clone();
        let local: Option<Vec<Matrix>> =
            self.info.iter().zip(groups).map(|(info, groups)| btl::inverse(info, groups)).collect();
        let local = local?;
        for (t, cross) in self.cross.iter().enumerate() {
            left -= cross.transpose() * (&local[t] * &self.score[t]);
        }
        let d_beta = influence.core() * left;
        let own = |t: usize| &local[t] * (&self.score[t] - &self.cross[t] * &d_beta);
        let rows: Vec<Vector> = (0..local.len()).map(own).collect();
        Some((Matrix::from_fn(rows.len(), local[0].nrows(), |t, i| rows[t][i]), d_beta))
    }
}

/// The sum of squares of scores, each game or each cluster its own.
fn meat(games: &Games, votes: &Votes, x: &[f64], inside: &[usize], theta: &Matrix, beta: &Vector) -> Matrix {
    let ((t, m), k) = (games.shape(), beta.nrows());
    let mut order = inside.to_vec();
    order.sort_by_key(|at| votes.all[*at].cluster);
    let mut meat = Matrix::zeros(t * m + k, t * m + k);
    let same = |a: &usize, b: &usize| votes.all[*a].cluster.is_some() && votes.all[*a].cluster == votes.all[*b].cluster;
    for cluster in order.chunk_by(same) {
        let mut score: std::collections::BTreeMap<usize, f64> = std::collections::BTreeMap::new();
        for at in cluster {
            let (vote, x) = (&votes.all[*at], &x[at * k..(at + 1) * k]);
            let cell = &games.cells[vote.cell];
            let off = residual(&vote.won, &Link::Half.at(gap(games, vote, x, theta, beta)));
            *score.entry(cell.category * m + cell.a).or_default() += off;
            *score.entry(cell.category * m + cell.b).or_default() -= off;
            x.iter().enumerate().for_each(|(i, x)| *score.entry(t * m + i).or_default() += off * x);
        }
        for (i, x) in &score {
            score.iter().for_each(|(j, y)| meat[(*i, *j)] += x * y);
        }
    }
    let n = games.clusters as f64;
    faer::Scale(if n > 1.0 { n / (n - 1.0) } else { 1.0 }) * meat
}
