//! Shapley values: what each candidate of a set adds to the set's worth, averaged over every order of arrival.
//!
//! The one idea: three ways to the same numbers. [`shapley_max`] is closed for the worth "best of the set";
//! [`shapley_table`] is exact for any worth given as its `2^K` values; [`shapley_sampled`] estimates, and says how well.
//! The empty set is worth 0: saying nothing earns nothing, so a set of bad candidates is worth less than no set.
//! Sums run in f64 in one order, so bits depend on the utilities alone, never on the order of the candidates.
//!
//! Source: Shapley 1953, "A value for n-person games"; Ai et al. 2026, arXiv:2603.29871 (candidates as players).

use super::set::MAX_CANDIDATES;
use crate::error::{Error, Result};
use crate::noise::Noise;

/// Most candidates of [`shapley_table`]: `2^16` values.
pub const MAX_TABLE: usize = 16;

/// Shapley values of the game `v(S) = max of S` (`v` of nothing is 0), `utility [K]` into `phi [K]`, for any K.
///
/// With utilities ascending, `r_1 <= ... <= r_K`, `r_0 = 0`: `phi_k = sum_{j <= k} (r_j - r_{j-1}) / (K - j + 1)`. Each
/// step from one utility to the next is shared by all that reach it; the first, from 0 to the worst, may be negative.
///
/// Source: Littlechild and Owen 1973 (the airport game), which is this game; arXiv:2603.29871 states O(K^2).
/// Differs: O(K log K), a sort and a running sum.
///
/// # Errors
/// [`Error::Shape`] when K is 0, `phi` has another length, or a utility is not finite.
pub fn shapley_max(utility: &[f64], phi: &mut [f64]) -> Result<()> {
    check("shapley_max", utility, phi.len())?;
    let mut order: Vec<usize> = (0..utility.len()).collect();
    order.sort_by(|a, b| utility[*a].total_cmp(&utility[*b]));
    let (mut before, mut share) = (0.0, 0.0);
    for (rank, who) in order.iter().enumerate() {
        share += (utility[*who] - before) / (utility.len() - rank) as f64;
        before = utility[*who];
        phi[*who] = share;
    }
    Ok(())
}

/// Shapley values of a game given by its values `[2^K]`, bit `i` of the index saying that candidate `i` is in the set:
/// `phi_i = sum_{S without i} |S|! (K - |S| - 1)! / K! (v(S + i) - v(S))`, sets in the order of their index.
///
/// # Errors
/// [`Error::Shape`] when there are not `2^K` values for `1 <= K <= 16`, one is not finite, or the empty set is not
/// worth 0.
pub fn shapley_table(values: &[f64], phi: &mut [f64]) -> Result<()> {
    let k = phi.len();
    let fact = |rule, want, got| Err(Error::Shape { op: "shapley_table", rule, want, got });
    if k == 0 || k > MAX_TABLE {
        return fact("1 to 16 candidates", MAX_TABLE, k);
    }
    if values.len() != 1 << k {
        return fact("values [2^K]", 1 << k, values.len());
    }
    finite("shapley_table", values)?;
    if values[0] != 0.0 {
        return fact("the empty set is worth 0: its index", 1, 0);
    }
    let weight = weights(k);
    for (i, phi) in phi.iter_mut().enumerate() {
        let without = (0..values.len()).filter(|set| set >> i & 1 == 0);
        *phi = without.map(|set| weight[set.count_ones() as usize] * (values[set | 1 << i] - values[set])).sum();
    }
    Ok(())
}

/// `|S|! (K - |S| - 1)! / K!` by size: one over `K` times the number of such sets.
fn weights(k: usize) -> Vec<f64> {
    let mut sets = 1.0;
    let weight = |size: usize| {
        let w = 1.0 / (k as f64 * sets);
        sets = sets * (k - 1 - size) as f64 / (size + 1) as f64;
        w
    };
    (0..k).map(weight).collect()
}

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
    finite("shapley_sampled", &sum)?;
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

fn check(op: &'static str, utility: &[f64], phi: usize) -> Result<()> {
    if utility.is_empty() {
        return Err(Error::Shape { op, rule: "candidates, 1 or more", want: 1, got: 0 });
    }
    if phi != utility.len() {
        return Err(Error::Shape { op, rule: "phi [K]", want: utility.len(), got: phi });
    }
    finite(op, utility)
}

/// Refuses numbers that are not finite: a NaN would silently poison every candidate of its group.
pub(super) fn finite(op: &'static str, of: &[f64]) -> Result<()> {
    let wrong = of.iter().filter(|x| !x.is_finite()).count();
    if wrong == 0 { Ok(()) } else { Err(Error::Shape { op, rule: "numbers that are not finite", want: 0, got: wrong }) }
}
