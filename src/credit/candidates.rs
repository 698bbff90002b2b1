//! Advantages of candidates: a set's shares against those of the other sets of its group.
//!
//! The one idea: candidates compare with candidates, sets with sets. A token inside candidate k's span carries the
//! candidate's advantage, every other sampled token of the reply the set's (`advantage`).
//!
//! Source: Ai et al. 2026, arXiv:2603.29871.
//! Differs: the paper's normalisation is not public to us. By default a share is multiplied by K, so that shares of equal
//! candidates have the size of the set's worth whatever K is, and the baseline is the mean over all candidates of the
//! group: a weak candidate falls below it even in the best set, which is the point.

/// What a candidate is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// All candidates of all sets of the group.
    Group,
    /// The candidates of its own reply: which of them, not how good the reply.
    Reply,
}

/// How shares become advantages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CandidateAdvantage {
    /// The normalisation set.
    pub against: Against,
    /// Multiply a share by its set's K.
    pub times_k: bool,
    /// Divide by the standard deviation of the normalisation set.
    pub divide_by_std: bool,
}

/// Added to the standard deviation before dividing.
const EPS: f64 = 1e-6;

/// Advantages of a group's candidates, in place: `shares [sets][K]`, an empty list for a reply that is malformed. Where all
/// of a normalisation set are the same they are exactly 0.
pub fn candidate_advantage(shares: &mut [Vec<f64>], how: CandidateAdvantage) {
    if how.times_k {
        for set in shares.iter_mut() {
            let k = set.len() as f64;
            set.iter_mut().for_each(|s| *s *= k);
        }
    }
    match how.against {
        Against::Group => {
            let mut all: Vec<&mut f64> = shares.iter_mut().flatten().collect();
            normalise(&mut all, how.divide_by_std);
        }
        Against::Reply => {
            for set in shares.iter_mut() {
                normalise(&mut set.iter_mut().collect::<Vec<_>>(), how.divide_by_std);
            }
        }
    }
}

fn normalise(all: &mut [&mut f64], divide_by_std: bool) {
    let Some(first) = all.first().map(|x| **x) else { return };
    if all.iter().all(|x| **x == first) {
        return all.iter_mut().for_each(|x| **x = 0.0);
    }
    let n = all.len() as f64;
    let mean = all.iter().map(|x| **x).sum::<f64>() / n;
    let variance = all.iter().map(|x| (**x - mean).powi(2)).sum::<f64>() / n;
    let scale = if divide_by_std { 1.0 / (variance.sqrt() + EPS) } else { 1.0 };
    all.iter_mut().for_each(|x| **x = (**x - mean) * scale);
}
