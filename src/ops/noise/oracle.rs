//! Noise: the numbers of a stream, one after another.

use crate::noise::Noise;

/// Returns bits `[N]`; see [`crate::ops::noise::noise_bits`]. Counters go on past their end.
pub fn noise_bits(noise: Noise, first: u64, n: usize) -> Vec<u64> {
    (0..n as u64).map(|i| noise.bits(first.wrapping_add(i))).collect()
}
