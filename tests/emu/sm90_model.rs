//! A whole training step in bf16 by Hopper's kernels: every logprob, entropy and gradient has the bits of the portable ones,
//! on the emulator.

use crate::support::{indices, normal, same};
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::{DType, Device};
use haggle::model::{Activations, ModelConfig, PackedBatch, Packing, Use, Weights, backward, forward};
use std::sync::Arc;

/// Several spans of sums, the last one short.
const VOCAB: usize = 2312;

fn config() -> ModelConfig {
    ModelConfig {
        hidden_size: 72,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 64,
        intermediate_size: 136,
        max_position_embeddings: 256,
        tie_word_embeddings: true,
        ..ModelConfig::tiny(VOCAB)
    }
}

/// logprobs, entropies, gradients; and the kernels that ran.
fn step(dev: &Device) -> ([Vec<f32>; 3], Vec<&'static str>) {
    let mut packing = Packing::default();
    for (stream, len) in [2, 33, 1, 130].into_iter().enumerate() {
        packing.push(&indices(len, VOCAB, stream as u64), |i| i % 2 == 1 || stream == 3);
    }
    let w = Weights::init(dev, config(), 5).unwrap().compute_in(dev, DType::Bf16).unwrap();
    let (n, m) = (packing.ids.len(), packing.targets.len());
    let mut batch = PackedBatch::new(dev, &w.config, n, m).unwrap();
    batch.set(dev, &packing).unwrap();
    let mut acts = Activations::new(dev, &w.config, n, m, Use::Train).unwrap();
    let [dlogprob, dentropy] = [1, 2].map(|s| dev.upload(&normal(m, s)).unwrap());
    let mut grads = w.zeros_like(dev).unwrap();
    dev.start_recording(1 << 12).unwrap();
    forward(dev, &w, &batch, &mut acts, 0.8).unwrap();
    backward(dev, &w, &batch, &mut acts, dlogprob.view(), dentropy.view(), &mut grads, 0.8).unwrap();
    let ran = dev.stop_recording().unwrap().events.iter().map(|e| e.name).collect();
    ([dev.to_vec(acts.logprob()), dev.to_vec(acts.entropy()), dev.to_vec(grads.view())], ran)
}

#[test]
fn a_step_by_hopper_s_kernels_has_the_bits_of_the_portable_ones() {
    let emu = |seed, hopper| {
        let emu = Emu::with_seed(2, seed).unwrap().with_hopper(hopper);
        Device::Gpu(Arc::new(Gpu::Emu(emu)))
    };
    let (want, plain) = step(&emu(0, false));
    assert!(want.iter().flatten().all(|x| x.is_finite()) && want[2].iter().any(|x| *x != 0.0));
    assert!(!plain.iter().any(|name| name.contains("_sm90_")));
    for seed in [0, 1] {
        let (got, ran) = step(&emu(seed, true));
        // Products of so small a model have smaller tiles than Hopper's, whose bits tests/emu/sm90.rs holds.
        for stem in ["attn_fwd", "attn_bwd_dq", "attn_bwd_dkv", "linear_logprob_spans", "linear_logprob_bwd"] {
            let kernel = format!("{stem}_sm90_");
            assert!(ran.iter().any(|name| name.starts_with(&kernel)), "{kernel} did not run: {ran:?}");
        }
        for (what, (want, got)) in ["logprob", "entropy", "gradients"].iter().zip(want.iter().zip(&got)) {
            same("a training step", &format!("{what}, seed {seed}"), &[want.len()], want, got);
        }
    }
}
