//! All gaps at once: the critical value under which every interval of a family holds together, ranks and tiers.
//!
//! The one idea: given the data, the Gaussian multiplier bootstrap of the largest studentised gap is the largest gap of a
//! normal vector with the estimates' covariance, so it is drawn from that, and no game is walked again.
//!
//! Source: Chernozhukov, Chetverikov and Kato 2013, "Gaussian approximations and multiplier bootstrap for maxima of sums";
//! ranks from simultaneous intervals, Mogstad, Romano, Shaikh and Wilhelm 2024, "Inference for ranks".

use super::linalg::{Matrix, root};
use crate::noise::Noise;

/// Draws of the largest gap.
pub const DRAWS: usize = 10_000;
/// Draws that are made together.
const BLOCK: usize = 64;

/// The variance of the gap of two ratings.
pub fn gap_variance(covariance: &Matrix, a: usize, b: usize) -> f64 {
    covariance[(a, a)] + covariance[(b, b)] - 2.0 * covariance[(a, b)]
}

/// Gaps of a normal vector, over their standard errors.
pub struct Gaps {
    /// A root of the covariance, `[M, M]`.
    root: Matrix,
    /// One over the standard error of each pair's gap, first by first; 0 where there is none.
    per_se: Vec<f64>,
    noise: Noise,
}

impl Gaps {
    /// Gaps of `x ~ N(0, covariance)` between those who are `known` to each other; `None` for what is not finite.
    pub fn of(covariance: &Matrix, known: impl Fn(usize, usize) -> bool, noise: Noise) -> Option<Gaps> {
        let (m, root) = (covariance.nrows(), root(covariance)?);
        let per = |a: usize, b: usize| {
            let variance = gap_variance(covariance, a, b);
            if known(a, b) && variance > 0.0 { 1.0 / variance.sqrt() } else { 0.0 }
        };
        let per_se = (0..m).flat_map(|a| (a + 1..m).map(move |b| (a, b))).map(|(a, b)| per(a, b)).collect();
        Some(Gaps { root, per_se, noise })
    }

    /// Draws of the vector in order, each shown to `see`.
    fn each(&self, draws: usize, mut see: impl FnMut(usize, &[f64])) {
        let m = self.root.nrows();
        let mut x = vec![0.0; m];
        for first in (0..draws).step_by(BLOCK) {
            let normal = |i: usize, draw: usize| self.noise.normal(((first + draw) * m + i) as u64);
            let block = &self.root * Matrix::from_fn(m, BLOCK.min(draws - first), normal);
            for draw in 0..block.ncols() {
                x.iter_mut().zip(block.col(draw).iter()).for_each(|(x, drawn)| *x = *drawn);
                see(first + draw, &x);
            }
        }
    }

    /// The largest gap of each draw.
    pub fn largest(&self, draws: usize) -> Vec<f64> {
        let mut all = Vec::with_capacity(draws);
        self.each(draws, |_, x| {
            let (mut best, mut from) = (0.0_f64, 0);
            for a in 0..x.len() {
                let to = from + x.len() - a - 1;
                best = best.max(widest(x[a], &x[a + 1..], &self.per_se[from..to]));
                from = to;
            }
            all.push(best);
        });
        all
    }

    /// The largest gap of each draw, of each model's own gaps, `[M, draws]`.
    pub fn largest_of_each(&self, draws: usize) -> Vec<Vec<f64>> {
        let m = self.root.nrows();
        let mut all = vec![vec![0.0_f64; draws]; m];
        self.each(draws, |draw, x| {
            let mut at = 0;
            for a in 0..m {
                for b in a + 1..m {
                    let size = (x[a] - x[b]).abs() * self.per_se[at];
                    (all[a][draw], all[b][draw]) = (all[a][draw].max(size), all[b][draw].max(size));
                    at += 1;
                }
            }
        });
        all
    }
}

/// The largest gap of one to others; eight at a time, so that the compiler can.
fn widest(own: f64, others: &[f64], per_se: &[f64]) -> f64 {
    let mut best = [0.0; 8];
    let larger = |best: &mut f64, other: f64, per: f64| {
        let size = (own - other).abs() * per;
        *best = if size > *best { size } else { *best };
    };
    for (others, per) in others.chunks(8).zip(per_se.chunks(8)) {
        for (lane, (other, per)) in others.iter().zip(per).enumerate() {
            larger(&mut best[lane], *other, *per);
        }
    }
    best.into_iter().fold(0.0, f64::max)
}

/// The value below which `level` of the draws lie.
pub fn quantile(mut draws: Vec<f64>, level: f64) -> f64 {
    draws.sort_by(f64::total_cmp);
    let at = ((level * draws.len() as f64).ceil() as usize).clamp(1, draws.len().max(1));
    draws.get(at - 1).copied().unwrap_or(f64::INFINITY)
}

/// Where each of `m` models can stand: 1 and the certainly better, `m` less the certainly worse.
///
/// `beats(a, b)` says that `a` is certainly better.
pub fn ranks(m: usize, beats: impl Fn(usize, usize) -> bool) -> Vec<(usize, usize)> {
    let others = |model: usize| (0..m).filter(move |other| *other != model);
    let low = |model: usize| 1 + others(model).filter(|other| beats(*other, model)).count();
    let high = |model: usize| m - others(model).filter(|other| beats(model, *other)).count();
    (0..m).map(|model| (low(model), high(model))).collect()
}
