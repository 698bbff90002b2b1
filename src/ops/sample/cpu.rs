//! Sampling on the CPU: inverse CDF over the whole row, or over what the filters keep.
//!
//! Likelier is a higher scaled logit, or among equals a lower token id. top-k keeps the first k of that order, top-p
//! its shortest beginning whose probability reaches top_p, min-p what has at least min_p times the probability of the
//! likeliest; all three judge the whole softmax, and what passes all is drawn in proportion. The order is never
//! sorted: a beginning of it is found by halving the range of its last logit, 32 looks at the row, no memory.

use crate::device::cpu::Cpu;
use crate::device::cpu::math::{exp, ln};
use crate::device::cpu::pool::Shared;
use crate::device::cpu::softmax::{LANES, SPAN, lane_sum, softmax_sums, tree};
use crate::noise::Noise;

/// Logits a task works on, about.
const TASK: usize = 1 << 12;

/// How rows are sampled; see [`crate::ops::sample::Sampling`].
pub struct Asked<'a> {
    /// `[N]`
    pub temperature: &'a [f32],
    /// `[N]`
    pub top_k: &'a [i32],
    /// `[N]`
    pub top_p: &'a [f32],
    /// `[N]`
    pub min_p: &'a [f32],
    /// `[N, 2]`
    pub key: &'a [u64],
    /// `[N]`
    pub pos: &'a [i32],
}

/// The rows of a decode step, one token further; see [`crate::ops::sample::Rows::MoveOn`].
pub fn move_on(token: &[i32], rows: &mut [i32], n_seqs: usize) {
    let n = token.len();
    for (row, token) in token.iter().enumerate() {
        if (rows[2 * n + row] as usize) < n_seqs {
            rows[row] = *token;
            rows[n + row] += 1;
            rows[4 * n + row] += 1;
        }
    }
}

/// See [`crate::ops::sample::sample_mask`].
pub fn sample_mask(cpu: &Cpu, allowed: &[i32], logits: &mut [f32], vocab: usize) {
    let (n, words) = (logits.len() / vocab, vocab.div_ceil(32));
    let logits = Shared::new(logits);
    cpu.rows(n, vocab, |first, rows| {
        // SAFETY: each row is one task's.
        let rows = unsafe { logits.part(first * vocab, rows * vocab) };
        for (row, z) in rows.chunks_exact_mut(vocab).enumerate() {
            let allowed = &allowed[(first + row) * words..][..words];
            for (z, word) in z.chunks_mut(32).zip(allowed) {
                let may = |bit: usize| *word as u32 >> bit & 1 == 1;
                z.iter_mut().enumerate().filter(|(bit, _)| !may(*bit)).for_each(|(_, z)| *z = f32::NEG_INFINITY);
            }
        }
    });
}

/// See [`crate::ops::sample::sample_lean`]. `[bias, repeat, less]`: few entries, so one thread does.
pub fn sample_lean(offsets: &[i32], id: &[i32], [bias, repeat, less]: [&[f32]; 3], logits: &mut [f32], vocab: usize) {
    for (row, logits) in logits.chunks_exact_mut(vocab).enumerate() {
        for k in offsets[row] as usize..offsets[row + 1] as usize {
            let z = logits[id[k] as usize] + bias[k];
            let z = if z > 0.0 { z / repeat[k] } else { z * repeat[k] };
            logits[id[k] as usize] = z - less[k];
        }
    }
}

/// See [`crate::ops::sample::sample`].
pub fn sample(
    cpu: &Cpu,
    logits: &mut [f32],
    how: Asked,
    token: &mut [i32],
    logprob: &mut [f32],
    vocab: usize,
    end: usize,
) {
    let n_rows = token.len();
    let rows = (TASK / vocab).max(1);
    let (logits, token, logprob) = (Shared::new(logits), Shared::new(token), Shared::new(logprob));
    cpu.pool.run(n_rows.div_ceil(rows), |task| {
        for r in task * rows..n_rows.min((task + 1) * rows) {
            // SAFETY: row r of the logits, and element r of the outputs, belong to this task.
            let (z, token, logprob) = unsafe { (logits.part(r * vocab, vocab), token.part(r, 1), logprob.part(r, 1)) };
            let (taken, lp) = cpu.isa.run(
                #[inline(always)]
                || sample_row(z, &how, r, end),
            );
            (token[0], logprob[0]) = (taken as i32, lp);
        }
    });
}

/// Token, below `end`, and logprob of row `r`, whose logits z are scaled in place.
#[inline(always)]
fn sample_row(z: &mut [f32], how: &Asked, r: usize, end: usize) -> (usize, f32) {
    let t = how.temperature[r];
    let inv_temperature = if t > 0.0 { 1.0 / t } else { 1.0 };
    z.iter_mut().for_each(|z| *z *= inv_temperature);
    let (max, sum, _) = softmax_sums(z);
    let drawn = &z[..end];
    let (top, mass, _) = if end < z.len() { softmax_sums(drawn) } else { (max, sum, 0.0) };
    let row = Row { z: drawn, max: top, sum: mass };
    let taken = if t > 0.0 {
        let u = Noise::new(how.key[r * 2], how.key[r * 2 + 1]).uniform((how.pos[r] as i64 + 1) as u64);
        row.draw(u, how.top_k[r].max(0) as usize, how.top_p[r], how.min_p[r])
    } else {
        drawn.iter().position(|v| *v == top).unwrap_or(0)
    };
    (taken, z[taken] - (max + ln(sum)))
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

/// A number that orders floats as integers; both zeros are one.
#[inline(always)]
fn rank(z: f32) -> i32 {
    let bits = (z + 0.0).to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

/// Scaled logits and their softmax sums.
struct Row<'a> {
    z: &'a [f32],
    max: f32,
    sum: f32,
}

impl Row<'_> {
    /// A draw from what the filters keep; `u` in (0, 1).
    #[inline(always)]
    fn draw(&self, u: f32, top_k: usize, top_p: f32, min_p: f32) -> usize {
        let p = |z: f32| exp(z - self.max);
        if top_k == 0 && top_p >= 1.0 && min_p <= 0.0 {
            return self.inverse_cdf(u * self.sum, |_, z| p(z));
        }
        let by_k = if top_k == 0 { Beginning::ALL } else { self.beginning(top_k as f32, |_| 1.0) };
        // Whatever top_p and min_p are, the likeliest stays.
        let mass = (top_p * self.sum).max(f32::MIN_POSITIVE);
        let by_p = if top_p >= 1.0 { Beginning::ALL } else { self.beginning(mass, p) };
        let min_p = min_p.min(1.0);
        let kept = |i: usize, z: f32| {
            let holds = by_k.holds(i, z) & by_p.holds(i, z) & (p(z) >= min_p);
            if holds { p(z) } else { 0.0 }
        };
        self.inverse_cdf(u * lane_sum(self.z, kept), kept)
    }

    /// The shortest beginning of the order of likelihood whose weights add up to `want` or more; else all.
    #[inline(always)]
    fn beginning(&self, want: f32, weight: impl Fn(f32) -> f32) -> Beginning {
        let above = |key: i32| lane_sum(self.z, |_, z| if rank(z) > key { weight(z) } else { 0.0 });
        // Invariant: what is above `low` reaches `want`, what is above `high` does not.
        let (mut low, mut high) = (i32::MIN as i64 - 1, i32::MAX as i64);
        while high - low > 1 {
            let middle = (low + high).div_euclid(2);
            if above(middle as i32) >= want { low = middle } else { high = middle }
        }
        let key = high as i32;
        let mut reached = above(key);
        for (i, z) in self.z.iter().enumerate() {
            if rank(*z) == key {
                reached += weight(*z);
                if reached >= want {
                    return Beginning { key, last: i };
                }
            }
        }
        Beginning { key, last: usize::MAX }
    }

    /// The first token at which the sum of weights exceeds `at`; the last one that has any weight if rounding keeps
    /// the sum below. What is left of `at` after the spans before is looked for inside a span, so that spans can be
    /// summed side by side; there sixteen tokens are added as a tree, and one by one where the sum crosses.
    #[inline(always)]
    fn inverse_cdf(&self, at: f32, weight: impl Fn(usize, f32) -> f32) -> usize {
        let (mut before, mut last) = (0f32, 0);
        for (s, span) in self.z.chunks(SPAN).enumerate() {
            let (need, mut cumulative) = (at - before, 0f32);
            let (chunks, rest) = span.as_chunks::<LANES>();
            // What is no token has no weight.
            let mut tail = [f32::NEG_INFINITY; LANES];
            tail[..rest.len()].copy_from_slice(rest);
            for (c, chunk) in chunks.iter().chain([&tail]).enumerate() {
                let (first, mut w) = (s * SPAN + c * LANES, [0f32; LANES]);
                for l in 0..LANES {
                    w[l] = weight(first + l, chunk[l]);
                }
                let sum = tree(w);
                if cumulative + sum > need {
                    let mut inside = cumulative;
                    for l in 0..LANES {
                        inside += w[l];
                        if w[l] > 0.0 && inside > need {
                            return first + l;
                        }
                    }
                }
                if sum > 0.0 {
                    last = first + w.iter().rposition(|w| *w > 0.0).unwrap_or(0);
                }
                cumulative += sum;
            }
            before += cumulative;
        }
        last
    }
}
