//! The signature of every architecture: what a rollout samples and its logprobs are one set of bits, from a cold cache, a
//! warm one, a branch, pages that were taken away, and in the training forward.

use crate::support::engine::{CONTEXT, Episode, VOCAB, hold_late_and_in_training, play, sized, tokens};
use haggle::device::{DType, Device, Precision};
use haggle::infer::{NoiseKey, Sampling};
use haggle::model::config::{Experts, preset};
use haggle::model::{Family, ModelConfig, Weights};
use half::bf16;

const EXPERTS: Experts = Experts { count: 6, active: 2, intermediate_size: 40, normalise: true };

fn config(family: Family) -> ModelConfig {
    let rope = if family == Family::Llama { preset("llama3-8b").unwrap().rope } else { ModelConfig::tiny(VOCAB).rope };
    ModelConfig {
        family,
        hidden_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        num_key_value_heads: 1,
        head_dim: 32,
        intermediate_size: 80,
        max_position_embeddings: CONTEXT,
        rope,
        experts: (family == Family::Qwen3Moe).then_some(EXPERTS),
        ..ModelConfig::tiny(VOCAB)
    }
}

/// Random weights that bf16 holds, large enough that distributions are far from flat, biases and norms included.
fn weights(dev: &Device, family: Family, compute: DType) -> Weights {
    let mut w = Weights::init(dev, config(family), 5).unwrap();
    let noise = crate::support::normal(w.layout.len, 8);
    let mut data = dev.to_vec::<f32>(w.data());
    for spec in &w.layout.specs {
        for i in spec.range() {
            let moved = if spec.decay { data[i] * 4.0 } else { data[i] + 0.3 * noise[i] };
            data[i] = bf16::from_f32(moved).to_f32();
        }
    }
    dev.write(w.data_mut(), &data);
    w.compute_in(dev, compute).unwrap()
}

/// Groups of rollouts with one prompt, two turns each; prompts around the page size.
fn episodes() -> Vec<Episode> {
    let one = |g: usize, len: usize, r: usize| Episode {
        prompt: tokens(g as u64, len),
        incoming: vec![tokens(100 + (g * 2 + r) as u64, [4, 33][r])],
        sampling: Sampling::plain([1.0, 0.7, 1.0][g], 5, 3),
        key: NoiseKey { seed: 5, stream: (g * 10 + r) as u64 },
        after: 0,
    };
    [1, 31, 65].into_iter().enumerate().flat_map(|(g, len)| [one(g, len, 0), one(g, len, 1)]).collect()
}

/// The same, held as a frozen model's are.
fn frozen(dev: &Device, family: Family, compute: DType) -> Weights {
    let mut w = weights(dev, family, compute);
    w.config.stored = DType::Bf16;
    w.frozen(dev).unwrap()
}

fn frozen_weights_have_the_bits_of_trained_ones(dev: &Device, compute: DType) {
    for family in Family::ALL {
        let (w, frozen) = (weights(dev, family, compute), frozen(dev, family, compute));
        assert_eq!(frozen.data().dtype(), DType::Bf16, "{family:?}");
        assert_eq!(frozen.crc(dev).unwrap(), w.crc(dev).unwrap(), "{family:?}");
        assert!(frozen.size_bytes() < w.size_bytes(), "{family:?}");
        let (want, got) =
            (play(dev, &w, sized(60, 256), &episodes()).0, play(dev, &frozen, sized(60, 256), &episodes()).0);
        assert!(want == got, "{family:?}: a frozen model plays another game");
        hold_late_and_in_training(dev, &frozen, &episodes(), &want);
        let mut again = Weights::zeros(dev, frozen.config.clone()).unwrap();
        again.copy_from(dev, &frozen).unwrap();
        assert_eq!(again.crc(dev).unwrap(), w.crc(dev).unwrap(), "{family:?}: trained from a frozen base");
    }
}

#[test]
fn frozen_weights_in_bf16_have_the_bits_of_trained_ones() {
    frozen_weights_have_the_bits_of_trained_ones(&Device::open("cpu", 2).unwrap(), DType::F32);
    let medium = Device::open_at("cpu", 2, Precision::Medium).unwrap();
    frozen_weights_have_the_bits_of_trained_ones(&medium, DType::F32);
    frozen_weights_have_the_bits_of_trained_ones(&crate::support::kernel_device(), DType::Bf16);
}

#[test]
fn weights_finer_than_bf16_are_not_rounded_when_they_are_frozen() {
    for (dev, compute) in
        [(Device::open("cpu", 1).unwrap(), DType::F32), (crate::support::kernel_device(), DType::Bf16)]
    {
        let fine = Weights::init(&dev, config(Family::Llama), 5).unwrap().compute_in(&dev, compute).unwrap();
        let crc = fine.crc(&dev).unwrap();
        let frozen = fine.frozen(&dev).unwrap();
        assert_eq!((frozen.crc(&dev).unwrap(), frozen.data().dtype()), (crc, DType::F32));
    }
}

fn cold_is_warm_is_evicted_is_training(dev: &Device, compute: DType) {
    for family in Family::ALL {
        let (eps, w) = (episodes(), weights(dev, family, compute));
        let (want, stats) = play(dev, &w, sized(60, 256), &eps);
        assert!(stats.prefix_reused_tok > 0, "{family:?}: {stats:?}");
        assert!(want.iter().any(|p| p.turns.iter().any(|t| t.1.iter().any(|l| f32::from_bits(*l) < -0.5))));
        hold_late_and_in_training(dev, &w, &eps, &want);
    }
}

#[test]
fn every_family_has_one_set_of_bits_on_the_cpu() {
    cold_is_warm_is_evicted_is_training(&Device::open("cpu", 2).unwrap(), DType::F32);
}

#[test]
fn every_family_has_one_set_of_bits_on_the_cpu_at_medium_precision() {
    cold_is_warm_is_evicted_is_training(&Device::open_at("cpu", 2, Precision::Medium).unwrap(), DType::F32);
}

#[test]
fn every_family_has_one_set_of_bits_on_our_kernels() {
    cold_is_warm_is_evicted_is_training(&crate::support::kernel_device(), DType::F32);
}

#[test]
fn every_family_has_one_set_of_bits_on_our_kernels_in_bf16() {
    cold_is_warm_is_evicted_is_training(&crate::support::kernel_device(), DType::Bf16);
}
