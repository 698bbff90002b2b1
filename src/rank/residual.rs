//! What the shape does not explain: whether it fits, how far ratings stray from it, and which do so alone.
//!
//! The one idea: give every rating of every category a free deviation `delta ~ N(0, tau^2)`. With `S` the information of
//! deviations once the shape has taken its part, their scores have the law `u ~ N(0, S + tau^2 S^2)`; its eigenvectors make
//! everything a sum over numbers. `tau` = 0 is the low rank alone, `tau` without end each category on its own.
//!
//! Source: the score test and the best linear predictor of a random effect, as in Breslow and Clayton 1993, "Approximate
//! inference in generalized linear mixed models".

use super::influence::{Spread, drift, information, widened};
use super::linalg::{Factor, Matrix, Vector, eigen};
use super::moments::Moments;

/// The largest `tau` that is looked for, in logits.
pub const TAU_MAX: f64 = 3.0;
/// The smallest `tau` that is looked for beside 0.
const TAU_MIN: f64 = 1e-3;
/// Points of the first search.
const GRID: usize = 48;
/// Narrowings of the search, and rounds of the fixed point.
const ROUNDS: usize = 80;

/// Deviations' scores and information; `Q = T M`, model `m` of category `t` at `t M + m`.
pub struct Residual {
    s: Matrix,
    u: Vector,
    values: Vec<f64>,
    /// `(vector' u)^2` of each eigenvalue.
    seen: Vec<f64>,
    /// What `seen` is worth where there is no deviation.
    null: Vec<f64>,
    /// True when `null` is the eigenvalue itself: the likelihood can be used.
    model: bool,
}

impl Residual {
    /// At ratings of a shape with directions `maps`, where scores have this spread.
    ///
    /// `None` where the information does not determine the shape's coordinates.
    pub fn at(maps: &[Matrix], moments: &Moments, ridge: f64, spread: Spread) -> Option<Residual> {
        let m = maps.first()?.nrows();
        let (q, drift) = (maps.len() * m, drift(maps, moments));
        let core = Factor::of(&information(maps, &drift, moments, ridge))?;
        let d = drift[0].ncols();
        let wide = widened(maps, moments);
        let (mut f, mut reach, mut g) = (Matrix::zeros(q, d), Matrix::zeros(q, d), Vector::zeros(q));
        let mut s = Matrix::zeros(q, q);
        for t in 0..maps.len() {
            f.subrows_mut(t * m, m).copy_from(&drift[t]);
            reach.subrows_mut(t * m, m).copy_from(&wide[t]);
            s.submatrix_mut(t * m, t * m, m, m).copy_from(&moments.info[t]);
            (0..m).for_each(|i| g[t * m + i] = moments.score[t][i]);
        }
        let taken = core.solve_matrix(&f.transpose().to_owned()).transpose().to_owned();
        s -= &f * taken.transpose();
        let s = super::linalg::symmetric(&s);
        let mut gathered = reach.transpose() * &g;
        if let Some(ties) = &moments.ties {
            gathered[d - 1] += ties.score;
        }
        let u = &g - &taken * &gathered;
        let (values, vectors) = eigen(&s)?;
        let turned = vectors.transpose() * &u;
        let seen = turned.iter().map(|v| v * v).collect();
        let null = match spread {
            Spread::Model => values.clone(),
            Spread::Games(moments) => spread_of(&vectors, &taken, &reach, &meat_of(moments, m)),
            Spread::Clusters(meat) => spread_of(&vectors, &taken, &reach, meat),
        };
        Some(Residual { s, u, values, seen, null, model: matches!(spread, Spread::Model) })
    }

    /// How far the ratings lie from the shape, as a standard normal number where they do not.
    pub fn lack_of_fit(&self) -> f64 {
        let (mut expected, mut spread) = (0.0, 0.0);
        for null in self.kept().map(|at| self.null[at]) {
            expected += null;
            spread += 2.0 * null * null;
        }
        (self.u.squared_norm_l2() - expected) / f64::sqrt(spread).max(f64::MIN_POSITIVE)
    }

    /// Each deviation's score over its standard error, were there none, `[Q]`.
    pub fn cell_z(&self) -> Vec<f64> {
        (0..self.u.nrows()).map(|i| self.u[i] / self.s[(i, i)].max(f64::MIN_POSITIVE).sqrt()).collect()
    }

    /// The same of one deviation where all have variance `tau2`.
    pub fn z_beside(&self, i: usize, tau2: f64) -> f64 {
        let squared: f64 = self.s.col(i).iter().map(|x| x * x).sum();
        self.u[i] / (self.s[(i, i)] + tau2 * squared).max(f64::MIN_POSITIVE).sqrt()
    }

    /// The most likely variance of deviations; by moments where scores do not follow from the model.
    pub fn tau2(&self) -> f64 {
        if self.model { self.by_likelihood() } else { self.by_moments() }
    }

    fn kept(&self) -> impl Iterator<Item = usize> {
        let least = 1e-9 * self.values.last().copied().unwrap_or(0.0);
        (0..self.values.len()).filter(move |at| self.values[*at] > least)
    }

    /// Twice the negative log-likelihood, a constant aside.
    fn deviance(&self, tau: f64) -> f64 {
        let one = |at: usize| {
            let more = 1.0 + tau * tau * self.values[at];
            more.ln() + self.seen[at] / (self.values[at] * more)
        };
        self.kept().map(one).sum()
    }

    fn by_likelihood(&self) -> f64 {
        let grid = |i: usize| TAU_MIN * (TAU_MAX / TAU_MIN).powf(i as f64 / (GRID - 1) as f64);
        let best = (0..GRID).min_by(|x, y| self.deviance(grid(*x)).total_cmp(&self.deviance(grid(*y)))).unwrap_or(0);
        let (mut low, mut high) = (if best == 0 { 0.0 } else { grid(best - 1) }, grid((best + 1).min(GRID - 1)));
        let golden = 0.5 * (5.0_f64.sqrt() - 1.0);
        for _ in 0..ROUNDS {
            let (left, right) = (high - golden * (high - low), low + golden * (high - low));
            if self.deviance(left) <= self.deviance(right) { high = right } else { low = left }
        }
        let tau = 0.5 * (low + high);
        if self.deviance(tau) < self.deviance(0.0) { tau * tau } else { 0.0 }
    }

    /// What `seen` has above `null`, weighed as at the `tau` found so far.
    fn by_moments(&self) -> f64 {
        let mut tau2 = 0.0;
        for _ in 0..ROUNDS {
            let (mut above, mut worth) = (0.0, 0.0);
            for at in self.kept() {
                let l = self.values[at];
                let weight = (1.0 + tau2 * l).powi(-2);
                above += weight * (self.seen[at] - self.null[at]);
                worth += weight * l * l;
            }
            let next = (above / worth.max(f64::MIN_POSITIVE)).clamp(0.0, TAU_MAX * TAU_MAX);
            let moved = (next - tau2).abs();
            tau2 = next;
            if moved < 1e-12 {
                break;
            }
        }
        tau2
    }
}

/// The meat of independent games as one matrix, `[Q + k, Q + k]`.
fn meat_of(moments: &Moments, m: usize) -> Matrix {
    let q = moments.meat.len() * m;
    let size = q + usize::from(moments.ties.is_some());
    let mut all = Matrix::zeros(size, size);
    for (t, meat) in moments.meat.iter().enumerate() {
        all.submatrix_mut(t * m, t * m, m, m).copy_from(meat);
    }
    if let Some(ties) = &moments.ties {
        for (t, cross) in ties.meat_cross.iter().enumerate() {
            for i in 0..m {
                (all[(t * m + i, q)], all[(q, t * m + i)]) = (cross[i], cross[i]);
            }
        }
        all[(q, q)] = ties.meat;
    }
    all
}

/// The variance of the deviations' scores along each eigenvector, from the scores' meat.
fn spread_of(vectors: &Matrix, taken: &Matrix, reach: &Matrix, meat: &Matrix) -> Vec<f64> {
    let (q, size) = (vectors.nrows(), meat.ncols());
    let through = vectors.transpose() * taken;
    let mut effect = Matrix::zeros(q, size);
    effect.subcols_mut(0, q).copy_from(vectors.transpose() - &through * reach.transpose());
    if size > q {
        let last = through.ncols() - 1;
        (0..q).for_each(|i| effect[(i, q)] = -through[(i, last)]);
    }
    let weighed = &effect * meat;
    (0..q).map(|i| (0..size).map(|j| weighed[(i, j)] * effect[(i, j)]).sum()).collect()
}
