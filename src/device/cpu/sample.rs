//! Sampling on the CPU: inverse CDF over the whole row, or over what the filters keep.
//!
//! Likelier is a higher scaled logit, or among equals a lower token id. top-k keeps the first k of that order, top-p
//! its shortest beginning whose probability reaches top_p, min-p what has at least min_p times the probability of the
//! likeliest; all three judge the whole softmax, and what passes all is drawn in proportion. The order is never
//! sorted: a beginning of it is found by halving the range of its last logit, 32 looks at the row, no memory.

use super::Cpu;
use super::math::exp;
use super::pool::Shared;
use super::softmax::{LANES, lane_sum, softmax_sums, tree};
use crate::noise::Noise;

/// Logits a task works on, about.
const TASK: usize = 1 << 12;

/// How rows are sampled; see [`crate::ops::sample::Sampling`].
pub struct Rows<'a> {
    /// `[N]`
    pub temperature: &'a [f32],
    /// `[N]`
    pub top_k: &'a [i32],
    /// `[N]`
    pub top_p: &'a [f32],
    /// `[N]`
    pub min_p: &'a [f32],
    /// `[N, 3]`
    pub key: &'a [u64],
}

/// See [`crate::ops::sample::sample`].
pub fn sample(cpu: &Cpu, logits: &mut [f32], how: Rows, token: &mut [i32], logprob: &mut [f32], vocab: usize) {
    let n_rows = token.len();
    let rows = (TASK / vocab).max(1);
    let (logits, token, logprob) = (Shared::new(logits), Shared::new(token), Shared::new(logprob));
    cpu.pool.run(n_rows.div_ceil(rows), |task| {
        for r in task * rows..n_rows.min((task + 1) * rows) {
            // SAFETY: row r of the logits, and element r of the outputs, belong to this task.
            let (z, token, logprob) = unsafe { (logits.part(r * vocab, vocab), token.part(r, 1), logprob.part(r, 1)) };
            let (taken, lp) = cpu.isa.run(
                #[inline(always)]
                || sample_row(z, &how, r),
            );
            (token[0], logprob[0]) = (taken as i32, lp);
        }
    });
}

/// Token and logprob of row `r`, whose logits z are scaled in place.
#[inline(always)]
fn sample_row(z: &mut [f32], how: &Rows, r: usize) -> (usize, f32) {
    let t = how.temperature[r];
    let inv_temperature = if t > 0.0 { 1.0 / t } else { 1.0 };
    z.iter_mut().for_each(|z| *z *= inv_temperature);
    let (max, sum, _) = softmax_sums(z);
    let row = Row { z, max, sum };
    let taken = if t > 0.0 {
        let u = Noise::new(how.key[r * 3], how.key[r * 3 + 1]).uniform(how.key[r * 3 + 2]);
        let (k, top_p, min_p) = (how.top_k[r].max(0) as usize, how.top_p[r], how.min_p[r]);
        if k == 0 && top_p >= 1.0 && min_p <= 0.0 {
            row.inverse_cdf(
                u * sum,
                #[inline(always)]
                |_, p| p,
            )
        } else {
            row.truncated(u, k, top_p, min_p)
        }
    } else {
        z.iter().position(|v| *v == max).unwrap_or(0)
    };
    (taken, z[taken] - (max + sum.ln()))
}

/// Scaled logits and their softmax sums.
struct Row<'a> {
    z: &'a [f32],
    max: f32,
    sum: f32,
}

/// Tokens whose rank is above `key`, or equal to it with an id up to `last`.
#[derive(Clone, Copy)]
struct Beginning {
    key: i32,
    last: usize,
}

impl Beginning {
    const ALL: Beginning = Beginning { key: i32::MIN, last: usize::MAX };

    #[inline(always)]
    fn holds(self, id: usize, z: f32) -> bool {
        let key = rank(z);
        key > self.key || (key == self.key && id <= self.last)
    }
}

/// What the filters keep.
struct Kept {
    by_k: Beginning,
    by_p: Beginning,
    min_p: f32,
}

impl Kept {
    /// `p`, the probability over that of the likeliest, where token `id` is kept; else 0.
    #[inline(always)]
    fn weight(&self, id: usize, z: f32, p: f32) -> f32 {
        if self.by_k.holds(id, z) && self.by_p.holds(id, z) && p >= self.min_p { p } else { 0.0 }
    }
}

/// A number that orders floats as integers; both zeros are one.
#[inline(always)]
fn rank(z: f32) -> i32 {
    let bits = (z + 0.0).to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

impl Row<'_> {
    #[inline(always)]
    fn p(&self, i: usize) -> f32 {
        exp(self.z[i] - self.max)
    }

    /// A draw from what the filters keep; `u` in (0, 1).
    #[inline(always)]
    fn truncated(&self, u: f32, top_k: usize, top_p: f32, min_p: f32) -> usize {
        let by_k = match top_k {
            0 => Beginning::ALL,
            k => self.beginning(
                k as f32,
                #[inline(always)]
                |_| 1.0,
            ),
        };
        let by_p = match top_p {
            p if p >= 1.0 => Beginning::ALL,
            // Whatever top_p is, the likeliest stays.
            p => self.beginning(
                (p * self.sum).max(f32::MIN_POSITIVE),
                #[inline(always)]
                |i| self.p(i),
            ),
        };
        let kept = Kept { by_k, by_p, min_p: min_p.min(1.0) };
        let total = lane_sum(
            self.z.len(),
            #[inline(always)]
            |i| kept.weight(i, self.z[i], self.p(i)),
        );
        self.inverse_cdf(
            u * total,
            #[inline(always)]
            |i, p| kept.weight(i, self.z[i], p),
        )
    }

    /// The shortest beginning of the order of likelihood whose weights add up to `want` or more; else all.
    #[inline(always)]
    fn beginning(&self, want: f32, weight: impl Fn(usize) -> f32) -> Beginning {
        // Invariant: what is above `low` reaches `want`, what is above `high` does not.
        let (mut low, mut high) = (i32::MIN as i64 - 1, i32::MAX as i64);
        while high - low > 1 {
            let middle = (low + high).div_euclid(2);
            if self.above(middle as i32, &weight) >= want { low = middle } else { high = middle }
        }
        let key = high as i32;
        let mut reached = self.above(key, &weight);
        for i in 0..self.z.len() {
            if rank(self.z[i]) == key {
                reached += weight(i);
                if reached >= want {
                    return Beginning { key, last: i };
                }
            }
        }
        Beginning { key, last: usize::MAX }
    }

    /// Sum of the weights of ranks above `key`.
    #[inline(always)]
    fn above(&self, key: i32, weight: impl Fn(usize) -> f32) -> f32 {
        lane_sum(
            self.z.len(),
            #[inline(always)]
            |i| if rank(self.z[i]) > key { weight(i) } else { 0.0 },
        )
    }

    /// The first token at which the sum of weights exceeds `at`; the last one that has any weight if rounding keeps
    /// the sum below. Sixteen tokens are added as a tree, and one by one where the sum crosses.
    #[inline(always)]
    fn inverse_cdf(&self, at: f32, weight: impl Fn(usize, f32) -> f32) -> usize {
        let (mut cumulative, mut last) = (0f32, 0);
        for start in (0..self.z.len()).step_by(LANES) {
            let n = LANES.min(self.z.len() - start);
            let mut w = [0f32; LANES];
            for l in 0..n {
                w[l] = weight(start + l, self.p(start + l));
            }
            let sum = tree(w);
            if sum > 0.0 {
                let mut inside = cumulative;
                if cumulative + sum > at {
                    for l in 0..n {
                        inside += w[l];
                        if inside > at {
                            return start + l;
                        }
                    }
                }
                last = start + w.iter().rposition(|w| *w > 0.0).unwrap_or(0);
            }
            cumulative += sum;
        }
        last
    }
}
