//! How positions become rotary angles.

use crate::ops::rope::frequencies;
use std::f32::consts::PI;

/// Rotary embedding: its base, and how its frequencies are scaled for longer contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Llama 3's scaling, where there is one.
    pub scaling: Option<Llama3Scaling>,
}

/// The scaling of Llama 3.1 and later (`rope_type` `llama3`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Llama3Scaling {
    /// Frequencies of long waves are divided by it.
    pub factor: f32,
    /// Waves longer than the old context over this are long.
    pub low_freq_factor: f32,
    /// Waves shorter than the old context over this stay.
    pub high_freq_factor: f32,
    /// The old context, in positions.
    pub original_max_position_embeddings: usize,
}

impl Rope {
    /// Frequencies of this base as they are.
    pub fn plain(theta: f64) -> Rope {
        Rope { theta, scaling: None }
    }

    /// Radians a position, `[D / 2]`.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = frequencies(head_dim, self.theta);
        match self.scaling {
            None => plain,
            Some(scaling) => plain.into_iter().map(|frequency| scaling.of(frequency)).collect(),
        }
    }
}

impl Llama3Scaling {
    /// A frequency scaled. Waves between long and short ones go over smoothly. In f32, as what the checkpoints were
    /// trained with computes it.
    ///
    /// Source: Llama Team 2024, arXiv:2407.21783, section 3.4.2 names the method; the formula is that of its reference
    /// code and of transformers.
    fn of(self, frequency: f32) -> f32 {
        let (low, high, old) =
            (self.low_freq_factor, self.high_freq_factor, self.original_max_position_embeddings as f32);
        let wave = 2.0 * PI / frequency;
        if wave > old / low {
            return frequency / self.factor;
        }
        if wave < old / high {
            return frequency;
        }
        let smooth = (old / wave - low) / (high - low);
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waves_stay_long_ones_are_divided_and_those_between_go_over() {
        let scaling = Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let of_wave = |wave: f32| scaling.of(2.0 * PI / wave) / (2.0 * PI / wave);
        assert_eq!(of_wave(2000.0), 1.0);
        assert_eq!(of_wave(8200.0), 0.125);
        // Half way in 1 / wave: between 1/8 and 1.
        let half = of_wave(8192.0 / 2.5);
        assert!((half - 0.5625).abs() < 1e-6, "{half}");
    }
}
