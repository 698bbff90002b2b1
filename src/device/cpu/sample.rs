//! Sampling on the CPU.

use super::{Cpu, logprob::softmax_sums};
use crate::noise::Noise;

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
pub fn sample(_cpu: &Cpu, logits: &mut [f32], how: Rows, token: &mut [i32], logprob: &mut [f32], vocab: usize) {
    for row in 0..token.len() {
        let z = &mut logits[row * vocab..][..vocab];
        let t = how.temperature[row];
        let inv_temperature = if t > 0.0 { 1.0 / t } else { 1.0 };
        z.iter_mut().for_each(|z| *z *= inv_temperature);
        let (max, sum, _) = softmax_sums(z);
        let lse = max + sum.ln();
        let key = &how.key[row * 3..][..3];
        let taken = if t > 0.0 {
            inverse_cdf(z, max, sum, Noise::new(key[0], key[1]).uniform(key[2]))
        } else {
            z.iter().position(|v| *v == max).unwrap_or(0)
        };
        token[row] = taken as i32;
        logprob[row] = z[taken] - lse;
    }
}

fn inverse_cdf(z: &[f32], max: f32, sum: f32, u: f32) -> usize {
    let (mut cumulative, mut last) = (0f32, 0);
    for (i, v) in z.iter().enumerate() {
        let p = (v - max).exp();
        if p > 0.0 {
            cumulative += p;
            last = i;
            if cumulative > u * sum {
                return i;
            }
        }
    }
    last
}
