//! What the parameters of a new model are.

use super::{Held, Weights};
use crate::device::{DType, Device};
use crate::error::Result;
use crate::model::{ModelConfig, Plan, TensorId, TensorSpec};
use crate::noise::Noise;
use half::bf16;

/// Standard deviation of new weights.
const INIT_STD: f64 = 0.02;

impl Weights {
    /// A new model: matrices normal with deviation 0.02, those that write into the residual stream divided by
    /// sqrt(2 L) (Radford et al. 2019, section 2.3), norms one, biases zero. A tensor's values depend on seed and name alone.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub fn init(dev: &Device, config: ModelConfig, seed: u64) -> Result<Weights> {
        let mut w = Weights::zeros(dev, config)?;
        let residual = 1.0 / (2.0 * w.config.num_hidden_layers as f64).sqrt();
        for id in 0..w.layout.specs.len() {
            let values = initial(&w.layout.specs[id], seed, residual);
            w.set(dev, TensorId(id), &values);
        }
        w.version = 1;
        Ok(w)
    }

    /// A model in bf16 that is timed and asked nothing: matrices repeat a million numbers as [`Weights::init`] draws them, norms
    /// are one, biases zero. Billions of them are there in seconds.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory); [`Error::Device`](crate::Error::Device) where the device does not compute in bf16.
    pub fn for_timing(dev: &Device, config: ModelConfig) -> Result<Weights> {
        const PERIOD: usize = 1 << 20;
        let config = ModelConfig { stored: DType::Bf16, compute: DType::Bf16, ..config };
        let mut w = Weights::planned_frozen(&mut Plan::on(dev), "model", config)?;
        let noise = Noise::named(1, "for timing");
        let some: Vec<bf16> = (0..PERIOD as u64).map(|i| bf16::from_f64(noise.normal(i) * INIT_STD)).collect();
        for id in 0..w.layout.specs.len() {
            let spec = &w.layout.specs[id];
            let Some(_) = spec.matrix() else {
                let values = initial(spec, 1, 1.0);
                w.set(dev, TensorId(id), &values);
                continue;
            };
            let range = spec.range();
            if let Held::Frozen { data, .. } = &mut w.held {
                for start in range.clone().step_by(PERIOD) {
                    let len = PERIOD.min(range.end - start);
                    dev.write(data.at_mut(start..start + len), &some[..len]);
                }
            }
        }
        w.compute_in(dev, DType::Bf16)
    }
}

/// A new tensor's values, see [`Weights::init`]; those that are written into the residual stream times `residual`.
pub(in crate::model) fn initial(spec: &TensorSpec, seed: u64, residual: f64) -> Vec<f32> {
    if spec.shape.len() == 1 {
        let bias = spec.name.ends_with(".bias");
        return vec![if bias { 0.0 } else { 1.0 }; spec.len()];
    }
    let into_residual = spec.name.ends_with("o_proj.weight") || spec.name.ends_with("down_proj.weight");
    let std = INIT_STD * if into_residual { residual } else { 1.0 };
    let noise = Noise::named(seed, &spec.name);
    (0..spec.len()).map(|i| (noise.normal(i as u64) * std) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_is_a_function_of_seed_and_name() {
        let dev = Device::open("cpu", 1).unwrap();
        let host = |seed| dev.to_vec::<f32>(Weights::init(&dev, ModelConfig::tiny(64), seed).unwrap().data());
        assert_eq!(host(1), host(1));
        assert_ne!(host(1), host(2));
    }

    #[test]
    fn init_has_the_stated_deviations() {
        let dev = Device::open("cpu", 1).unwrap();
        let w = Weights::init(&dev, ModelConfig::tiny(2048), 1).unwrap();
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
