//! A model's parameters: one flat f32 buffer, and how it is born.

use super::{Layout, ModelConfig, TensorId, TensorSpec};
use crate::device::{Buffer, DType, Device, View};
use crate::noise::Noise;
use crate::ops::rope;

/// Standard deviation of new weights.
const INIT_STD: f64 = 0.02;

/// The parameters of one model on one device, with what is derived from its config.
pub struct Weights {
    /// The model's shape.
    pub config: ModelConfig,
    /// Where each tensor lies in `data`.
    pub layout: Layout,
    /// Every parameter, `[layout.len]` f32.
    pub data: Buffer,
    /// Counts changes of `data`; whoever writes it adds one. Caches of anything computed from it are keyed by it.
    pub version: u64,
    /// Rotary cosines and sines, `[max_position_embeddings, D]` f32.
    pub rope: Buffer,
}

impl Weights {
    /// A model whose parameters are all zero.
    pub fn zeros(dev: &Device, config: ModelConfig) -> Weights {
        let layout = Layout::new(&config);
        let data = dev.zeros(DType::F32, layout.len);
        let rope = dev.upload(&rope::table(config.max_position_embeddings, config.head_dim, config.rope_theta));
        Weights { config, layout, data, version: 0, rope }
    }

    /// A new model: matrices normal with deviation 0.02, those that write into the residual stream divided by
    /// sqrt(2 L) (Radford et al. 2019, section 2.3), norms one. A tensor's values depend on seed and name alone.
    pub fn init(dev: &Device, config: ModelConfig, seed: u64) -> Weights {
        let mut w = Weights::zeros(dev, config);
        let residual = 1.0 / (2.0 * w.config.num_hidden_layers as f64).sqrt();
        for spec in &w.layout.specs {
            dev.write(w.data.at_mut(spec.range()), &initial(spec, seed, residual));
        }
        w.version = 1;
        w
    }

    /// A tensor, to read.
    pub fn get(&self, id: TensorId) -> View<'_> {
        self.layout.of(&self.data, id)
    }

    /// A flat buffer of zeros laid out like the parameters: for gradients and moments.
    pub fn zeros_like(&self, dev: &Device) -> Buffer {
        dev.zeros(DType::F32, self.layout.len)
    }

    /// Copies another model's parameters of the same config, and counts a change.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when the sizes differ.
    pub fn copy_from(&mut self, dev: &Device, other: &Weights) -> crate::Result<()> {
        crate::ops::embed::copy(dev, other.data.view(), self.data.view_mut())?;
        self.version += 1;
        Ok(())
    }
}

fn initial(spec: &TensorSpec, seed: u64, residual: f64) -> Vec<f32> {
    if spec.shape.len() == 1 {
        return vec![1.0; spec.len()];
    }
    let into_residual = spec.name.ends_with("o_proj.weight") || spec.name.ends_with("down_proj.weight");
    let std = INIT_STD * if into_residual { residual } else { 1.0 };
    let noise = Noise::new(seed, fnv1a(&spec.name));
    (0..spec.len()).map(|i| (noise.normal(i as u64) * std) as f32).collect()
}

/// FNV-1a, 64 bits: a stream number from a name.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_is_a_function_of_seed_and_name() {
        let dev = Device::open("cpu", 1).unwrap();
        let host = |seed| dev.to_vec::<f32>(Weights::init(&dev, ModelConfig::tiny(64), seed).data.view());
        assert_eq!(host(1), host(1));
        assert_ne!(host(1), host(2));
    }

    #[test]
    fn init_has_the_stated_deviations() {
        let dev = Device::open("cpu", 1).unwrap();
        let w = Weights::init(&dev, ModelConfig::tiny(2048), 1);
        assert_eq!(w.layout.n_params(), 1_049_984);
        let std = |name: &str| {
            let x = dev.to_vec::<f32>(w.get(w.layout.find(name).unwrap()));
            (x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
        };
        assert!((std("model.embed_tokens.weight") / 0.02 - 1.0).abs() < 0.01);
        assert!((std("model.layers.3.mlp.down_proj.weight") / 0.02 * 8f64.sqrt() - 1.0).abs() < 0.02);
        assert_eq!(std("model.layers.0.self_attn.q_norm.weight"), 1.0);
    }
}
