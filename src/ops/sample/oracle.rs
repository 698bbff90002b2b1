//! Sampling: which tokens may be drawn, with which probability.

use crate::ops::logprob::oracle::log_softmax;

/// How one row is sampled; see [`crate::ops::sample::Sampling`].
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// 0 is greedy.
    pub temperature: f64,
    /// 0 keeps all.
    pub top_k: usize,
    /// 1 keeps all.
    pub top_p: f64,
    /// 0 keeps all.
    pub min_p: f64,
}

/// The next decode step's ids and positions: those of rows of live sequences one token further.
pub fn move_on(ids: &mut [i32], positions: &mut [i32], live: &[bool], token: &[i32]) {
    for i in (0..token.len()).filter(|i| live[*i]) {
        (ids[i], positions[i]) = (token[i], positions[i] + 1);
    }
}

/// The logits `[V]` of one row, those of ids that may not come next at minus infinity; `allowed` as of
/// [`crate::ops::sample::sample_mask`].
pub fn sample_mask(logits: &[f64], allowed: &[i32]) -> Vec<f64> {
    let may = |id: usize| allowed[id / 32] as u32 >> (id % 32) & 1 == 1;
    logits.iter().enumerate().map(|(id, z)| if may(id) { *z } else { f64::NEG_INFINITY }).collect()
}

/// The logits `[V]` of one row, moved at the ids of `entries` by `(id, bias, repeat, less)`; see
/// [`crate::ops::sample::sample_lean`].
pub fn sample_lean(logits: &[f64], entries: &[(usize, f64, f64, f64)]) -> Vec<f64> {
    let mut moved = logits.to_vec();
    for (id, bias, repeat, less) in entries {
        let z = logits[*id] + bias;
        moved[*id] = if z > 0.0 { z / repeat } else { z * repeat } - less;
    }
    moved
}

/// Probability of each token `[V]` of one row of logits, and its log-probability `[V]` under the whole softmax.
///
/// Kept are the tokens that pass every filter: the k likeliest; the smallest set of likeliest ones whose probability
/// reaches top_p; those of at least min_p times the likeliest. Of equals the one with the lower index counts as
/// likelier. What is kept is drawn in proportion. Greedy takes the likeliest.
pub fn sample(logits: &[f64], how: Row) -> (Vec<f64>, Vec<f64>) {
    let greedy = how.temperature == 0.0;
    let z: Vec<f64> = logits.iter().map(|z| if greedy { *z } else { z / how.temperature }).collect();
    let log_p = log_softmax(&z);
    let mut order: Vec<usize> = (0..z.len()).collect();
    order.sort_by(|a, b| z[*b].total_cmp(&z[*a]).then(a.cmp(b)));
    let top_k = if greedy { 1 } else { how.top_k };
    let (mut kept, mut before) = (vec![0.0; z.len()], 0.0);
    for (rank, token) in order.iter().enumerate() {
        let p = log_p[*token].exp();
        let in_k = top_k == 0 || rank < top_k;
        let in_p = greedy || how.top_p >= 1.0 || before < how.top_p;
        let in_min = greedy || p >= how.min_p * log_p[order[0]].exp();
        kept[*token] = if in_k && in_p && in_min { p } else { 0.0 };
        before += p;
    }
    let total: f64 = kept.iter().sum();
    kept.iter_mut().for_each(|p| *p /= total);
    (kept, log_p)
}
