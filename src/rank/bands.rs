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

/// The variance of the gap of two ratings.
pub fn gap_variance(covariance: &Matrix, a: usize, b: usize) -> f64 {
    covariance[(a, a)] + covariance[(b, b)] - 2.0 * covariance[(a, b)]
}

/// The largest `|x_a - x_b| / se` over `pairs` of each draw `x ~ N(0, covariance)`; `None` for what is not finite.
pub fn largest(covariance: &Matrix, pairs: &[(usize, usize)], draws: usize, noise: Noise) -> Option<Vec<f64>> {
    let (m, root) = (covariance.nrows(), root(covariance)?);
    let per_se: Vec<(usize, usize, f64)> = pairs
        .iter()
        .map(|(a, b)| (*a, *b, gap_variance(covariance, *a, *b)))
        .filter(|(_, _, variance)| *variance > 0.0)
        .map(|(a, b, variance)| (a, b, 1.0 / variance.sqrt()))
        .collect();
    let rows: Vec<Vec<f64>> = (0..m).map(|i| root.row(i).iter().copied().collect()).collect();
    let (mut normal, mut x) = (vec![0.0; m], vec![0.0; m]);
    let draw = |draw: usize| {
        (0..m).for_each(|i| normal[i] = noise.normal((draw * m + i) as u64));
        (0..m).for_each(|i| x[i] = rows[i].iter().zip(&normal).map(|(root, normal)| root * normal).sum());
        per_se.iter().map(|(a, b, per)| (x[*a] - x[*b]).abs() * per).fold(0.0, f64::max)
    };
    Some((0..draws).map(draw).collect())
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
