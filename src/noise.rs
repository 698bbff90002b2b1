//! Counter-based noise: every random number is a pure function of (seed, stream, counter).
//!
//! Nothing is drawn "next"; so results never depend on batching, threads, order or load.
//! Philox4x32-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

const MUL: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Philox4x32-10: 128 bits of noise for a 128-bit counter under a 64-bit key.
pub fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    let mut k = [key as u32, (key >> 32) as u32];
    let mut c = counter;
    for _ in 0..10 {
        let p0 = MUL[0] as u64 * c[0] as u64;
        let p1 = MUL[1] as u64 * c[2] as u64;
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// A stream of noise: `seed` names the run, `stream` the thing (an episode, a tensor, an epoch).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    /// The run's seed.
    pub seed: u64,
    /// What the noise is for.
    pub stream: u64,
}

impl Noise {
    /// The noise of `stream` under `seed`.
    pub fn new(seed: u64, stream: u64) -> Noise {
        Noise { seed, stream }
    }

    /// The noise of what is called `name` under `seed`: its stream is FNV-1a of the name, 64 bits.
    pub fn named(seed: u64, name: &str) -> Noise {
        let stream = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3));
        Noise { seed, stream }
    }

    /// A stream of its own below this one, e.g. one an episode below one a step.
    pub fn child(self, label: u64) -> Noise {
        let b = philox(self.seed ^ 0x6861_6767_6C65, split(self.stream, label));
        Noise { seed: self.seed, stream: (b[0] as u64) << 32 | b[1] as u64 }
    }

    /// 64 random bits at `counter`.
    pub fn bits(self, counter: u64) -> u64 {
        let b = philox(self.seed, split(self.stream, counter));
        (b[0] as u64) << 32 | b[1] as u64
    }

    /// A uniform number in the open interval (0, 1), 24 bits.
    pub fn uniform(self, counter: u64) -> f32 {
        ((self.bits(counter) >> 40) as f32 + 0.5) * (1.0 / (1u64 << 24) as f32)
    }

    /// A uniform number in (0, 1), 53 bits.
    pub fn uniform_f64(self, counter: u64) -> f64 {
        ((self.bits(counter) >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64)
    }

    /// A uniform index in `0..n` (`n` > 0); bias below 2^-32 for the sizes we use.
    pub fn below(self, counter: u64, n: usize) -> usize {
        ((self.bits(counter) as u128 * n as u128) >> 64) as usize
    }

    /// One of a list in which each has a weight, as often as it weighs; none of an empty one.
    pub fn among<T>(self, counter: u64, weighed: &[(T, f64)]) -> Option<&T> {
        let mut left = self.uniform_f64(counter) * weighed.iter().map(|(_, weight)| weight).sum::<f64>();
        let drawn = weighed.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        drawn.or(weighed.last()).map(|(one, _)| one)
    }

    /// `0..n` in a random order (Fisher and Yates 1938).
    pub fn shuffled(self, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            all.swap(i, self.below(i as u64, i + 1));
        }
        all
    }

    /// A standard normal number (Box and Muller 1958).
    pub fn normal(self, counter: u64) -> f64 {
        let b = philox(self.seed ^ 0x6E6F_726D, split(self.stream, counter));
        let u = ((b[0] as u64) << 21 | b[1] as u64 >> 11) as f64;
        let v = ((b[2] as u64) << 21 | b[3] as u64 >> 11) as f64;
        let unit = 1.0 / (1u64 << 53) as f64;
        (-2.0 * ((u + 0.5) * unit).ln()).sqrt() * (std::f64::consts::TAU * v * unit).cos()
    }
}

fn split(a: u64, b: u64) -> [u32; 4] {
    [b as u32, (b >> 32) as u32, a as u32, (a >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123's `kat_vectors` for philox4x32-10.
    #[test]
    fn philox_equals_the_published_vectors() {
        assert_eq!(philox(0, [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox(u64::MAX, [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn uniform_is_open_and_even() {
        let n = Noise::new(7, 3);
        let mean: f64 = (0..10_000).map(|i| n.uniform(i) as f64).sum::<f64>() / 1e4;
        assert!((0..10_000).all(|i| n.uniform(i) > 0.0 && n.uniform(i) < 1.0));
        assert!((mean - 0.5).abs() < 0.01, "mean {mean}");
    }
}
