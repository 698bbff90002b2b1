//! What a set of candidates is worth, and how that worth is divided among them.
//!
//! The one idea: a [`Worth`] says what a set earns, a [`Split`] who earned it; any of one goes with any of the other. The
//! empty set is worth 0 in all of them.

use crate::error::{Error, Result};

/// Most candidates of a set: their number of bits.
pub const MAX_CANDIDATES: usize = 64;

/// What a set of candidates is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Worth {
    /// The best of it: someone picks the best.
    Max,
    /// The sum of its best `m`: someone takes up to `m`.
    TopSum {
        /// How many are taken.
        m: usize,
    },
    /// The share of facts covered by any of it; utilities are not read.
    Coverage,
    /// The best of it minus a cost for each: reading candidates costs.
    MaxMinusCost {
        /// Cost of one candidate, in the utility's unit.
        cost: f64,
    },
    /// The mean utility of what a noisy user picks, `p_i ~ exp(u_i / temperature)` (McFadden 1974): near 0 the best,
    /// far above the mean. A bad candidate beside a good one then costs.
    Softmax {
        /// The user's noise, in the utility's unit; above 0.
        temperature: f64,
    },
}

/// Who earned a set's worth, by rules of one set at a time. The Shapley value, of many at once, is an op:
/// `crate::tasks::sets::shapley`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Everyone the same, worth / K: plain GRPO, where the set's scalar goes to every token.
    Uniform,
    /// What the set would lose without the candidate, `v(N) - v(N - i)`: 0 for all but the best under `Max`.
    LeaveOneOut,
    /// The candidate's own utility, whatever stands beside it.
    Own,
    /// What the set would lose with a typical candidate in its place (Wolpert and Tumer 2002, "Optimal payoff functions for
    /// members of collectives"): `v(N) - v(N - i + d)`, `d` of the mean utility, covering nothing.
    Difference,
}

/// The candidates of one reply.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Set {
    /// Utility of each, `[K]`.
    pub utility: Vec<f64>,
    /// Facts each covers, as bits, `[K]`; empty when the worth is not [`Worth::Coverage`].
    pub covers: Vec<u64>,
    /// Facts there are.
    pub facts: usize,
    /// The first candidate that says the same, `[K]`: a top sum counts one of them. Empty when all differ.
    pub same: Vec<usize>,
}

impl Set {
    /// A set of utilities that cover nothing.
    pub fn of(utility: &[f64]) -> Set {
        Set { utility: utility.to_vec(), ..Set::default() }
    }

    /// What the candidates of a bit mask are worth; 0 for none.
    pub fn worth(&self, worth: Worth, mask: u64) -> f64 {
        let members = || (0..self.utility.len()).filter(|i| mask >> i & 1 == 1);
        let chosen = || members().map(|i| self.utility[i]);
        if mask == 0 {
            return 0.0;
        }
        match worth {
            Worth::Max => chosen().fold(f64::NEG_INFINITY, f64::max),
            Worth::MaxMinusCost { cost } => {
                chosen().fold(f64::NEG_INFINITY, f64::max) - cost * f64::from(mask.count_ones())
            }
            Worth::TopSum { m } => {
                let is_first = |i: &usize| !(0..*i).any(|j| mask >> j & 1 == 1 && self.says_the_same(*i, j));
                let mut best: Vec<f64> = members().filter(is_first).map(|i| self.utility[i]).collect();
                best.sort_by(|a, b| b.total_cmp(a));
                best.iter().take(m).sum()
            }
            Worth::Coverage => {
                let all = members().fold(0, |all, i| all | self.covers.get(i).copied().unwrap_or(0));
                f64::from(all.count_ones()) / self.facts.max(1) as f64
            }
            Worth::Softmax { temperature } => {
                // Sums in ascending order of utility: bits do not depend on the order of the candidates.
                let mut sorted: Vec<f64> = chosen().collect();
                sorted.sort_by(f64::total_cmp);
                let top = sorted.last().copied().unwrap_or(0.0);
                let p = |u: f64| ((u - top) / temperature).exp();
                sorted.iter().map(|u| p(*u) * u).sum::<f64>() / sorted.iter().map(|u| p(*u)).sum::<f64>()
            }
        }
    }

    fn says_the_same(&self, i: usize, j: usize) -> bool {
        self.same.get(i).is_some_and(|a| self.same.get(j) == Some(a))
    }

    /// Every candidate.
    pub fn all(&self) -> u64 {
        u64::MAX >> (MAX_CANDIDATES - self.utility.len().clamp(1, MAX_CANDIDATES))
    }

    /// What every set of its candidates is worth, `[2^K]`; bit i of an index says that candidate i is in the set.
    pub fn values(&self, worth: Worth) -> Vec<f64> {
        (0..1u64 << self.utility.len()).map(|mask| self.worth(worth, mask)).collect()
    }

    /// `Ok` when the set can be divided.
    ///
    /// # Errors
    /// [`Error::Shape`] for no candidate, more than 64, a utility that is not finite, facts of another number of
    /// candidates under [`Worth::Coverage`].
    pub fn check(&self, worth: Worth) -> Result<()> {
        let k = self.utility.len();
        let fact = |rule, want, got| Err(Error::Shape { op: "split", rule, want, got });
        if k == 0 || k > MAX_CANDIDATES {
            return fact("1 to 64 candidates", k.clamp(1, MAX_CANDIDATES), k);
        }
        if worth == Worth::Coverage && self.covers.len() != k {
            return fact("covers [K]", k, self.covers.len());
        }
        match self.utility.iter().filter(|u| !u.is_finite()).count() {
            0 => Ok(()),
            wrong => fact("numbers that are not finite", 0, wrong),
        }
    }

    /// Divides the set's worth, `[K]`.
    ///
    /// # Errors
    /// As [`Set::check`].
    pub fn split(&self, worth: Worth, split: Split) -> Result<Vec<f64>> {
        self.check(worth)?;
        let k = self.utility.len();
        let all = self.worth(worth, self.all());
        Ok(match split {
            Split::Uniform => vec![all / k as f64; k],
            Split::Own => self.own(worth),
            Split::LeaveOneOut => (0..k).map(|i| all - self.worth(worth, self.all() & !(1 << i))).collect(),
            Split::Difference => {
                let typical = sorted_mean(&self.utility);
                (0..k).map(|i| all - self.replaced(worth, i, typical)).collect()
            }
        })
    }

    /// Each candidate alone.
    fn own(&self, worth: Worth) -> Vec<f64> {
        (0..self.utility.len()).map(|i| self.worth(worth, 1 << i)).collect()
    }

    /// The worth of all with candidate `i` replaced by one of utility `typical` that covers nothing.
    fn replaced(&self, worth: Worth, i: usize, typical: f64) -> f64 {
        let mut other = self.clone();
        other.utility[i] = typical;
        if let Some(covers) = other.covers.get_mut(i) {
            *covers = 0;
        }
        other.worth(worth, other.all())
    }
}

/// The mean, summed in ascending order.
fn sorted_mean(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.iter().sum::<f64>() / of.len() as f64
}
