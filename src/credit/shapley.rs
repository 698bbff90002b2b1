//! Shapley values by sampling: what each candidate adds, averaged over random orders of arrival.
//!
//! The one idea: an estimate that says how well it knows. Where there is a closed form or a table the values are exact, and
//! an op: `crate::ops::credit`. The empty set is worth 0: saying nothing earns nothing.
//!
//! Source: Shapley 1953, "A value for n-person games"; Ai et al. 2026, arXiv:2603.29871 (candidates as players).

use super::set::MAX_CANDIDATES;
use crate::error::{Error, Result};
use crate::noise::Noise;

/// Pairs of orders of an estimate in training.
pub const SAMPLED_PAIRS: usize = 256;

/// An estimate and how far it may be off.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The mean over pairs, `[K]`. It sums to the worth of all, like the exact values.
    pub phi: Vec<f64>,
    /// Its standard error, `[K]`; infinite for a single pair.
    pub standard_error: Vec<f64>,
}

/// Shapley values of any game of `k` candidates from `pairs` random orders, each with its reverse (antithetic: a
/// candidate early in one is late in the other). `value` takes a set as a bit mask and gives 0 for the empty one.
///
/// Source: Castro et al. 2009, "Polynomial calculation of the Shapley value based on sampling"; Mitchell et al. 2022,
/// arXiv:2104.12199 (antithetic pairs). The pairs are independent: their spread gives the standard error.
///
/// # Errors
/// [`Error::Shape`] when there is no candidate or no pair, more than 64 candidates, or a value is not finite.
pub fn shapley_sampled(k: usize, pairs: usize, noise: Noise, value: impl Fn(u64) -> f64) -> Result<Sampled> {
    let fact = |rule, want, got| Err(Error::Shape { op: "shapley_sampled", rule, want, got });
    if k == 0 || k > MAX_CANDIDATES {
        return fact("1 to 64 candidates", MAX_CANDIDATES, k);
    }
    if pairs == 0 {
        return fact("pairs", 1, 0);
    }
    let (mut sum, mut squares) = (vec![0.0; k], vec![0.0; k]);
    let mut mean = vec![0.0; k];
    for pair in 0..pairs {
        let mut order = noise.child(pair as u64).shuffled(k);
        mean.fill(0.0);
        walk(&order, &value, &mut mean);
        order.reverse();
        walk(&order, &value, &mut mean);
        // Welford 1962: the spread without a difference of large sums.
        for (i, m) in mean.iter().enumerate() {
            let off = m - sum[i];
            sum[i] += off / (pair + 1) as f64;
            squares[i] += off * (m - sum[i]);
        }
    }
    let wrong = sum.iter().filter(|x| !x.is_finite()).count();
    if wrong > 0 {
        return fact("numbers that are not finite", 0, wrong);
    }
    let n = pairs as f64;
    let error = |s: &f64| if pairs == 1 { f64::INFINITY } else { (s / (n - 1.0) / n).sqrt() };
    Ok(Sampled { phi: sum, standard_error: squares.iter().map(error).collect() })
}

/// Adds half of what each candidate adds in this order of arrival.
fn walk(order: &[usize], value: &impl Fn(u64) -> f64, mean: &mut [f64]) {
    let (mut set, mut before) = (0u64, 0.0);
    for who in order {
        set |= 1 << who;
        let after = value(set);
        mean[*who] += 0.5 * (after - before);
        before = after;
    }
}
