//! The whole model in bf16 on our kernels, run by the emulator, or a GPU where there is one: a rollout's logprobs are, bit for bit, those of the
//! training forward; optimizer steps train the f32 weights. How near its numbers are stands in `model_golden.rs`.

use crate::support::engine::{CONTEXT, Episode, VOCAB, hold_late_and_in_training, play, sized, tokens};
use haggle::device::{DType, Device};
use haggle::infer::{NoiseKey, Sampling};
use haggle::model::{Activations, ModelConfig, PackedBatch, Packing, Use, Weights, backward, forward};
use haggle::ops::embed::fill;
use haggle::train::optimizer::{Hyper, Optimizer, Part, Update};
use half::bf16;

/// A GPU where there is one, else the emulator.
fn kernels() -> Device {
    crate::support::kernel_device()
}

fn config(tied: bool) -> ModelConfig {
    ModelConfig {
        hidden_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        intermediate_size: 96,
        max_position_embeddings: CONTEXT,
        tie_word_embeddings: tied,
        ..ModelConfig::tiny(VOCAB)
    }
}

/// Weights that bf16 holds, large enough that distributions are far from flat.
fn weights(dev: &Device, tied: bool, compute: DType) -> Weights {
    let mut w = Weights::init(dev, config(tied), 5).unwrap();
    let data: Vec<f32> = dev.to_vec::<f32>(w.data()).iter().map(|x| bf16::from_f32(x * 4.0).to_f32()).collect();
    dev.write(w.data_mut(), &data);
    w.compute_in(dev, compute).unwrap()
}

fn packing() -> Packing {
    let mut packing = Packing::default();
    for (s, len) in [2, 33, 1, 70].into_iter().enumerate() {
        packing.push(&tokens(s as u64, len), |i| i % 2 == 1 || s == 1);
    }
    packing
}

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

#[test]
fn rollouts_have_the_bits_of_the_training_forward() {
    let (eps, dev) = (episodes(), kernels());
    let w = weights(&dev, true, DType::Bf16);
    let (want, stats) = play(&dev, &w, sized(60, 256), &eps);
    assert!(stats.prefix_reused_tok > 0, "{stats:?}");
    hold_late_and_in_training(&dev, &w, &eps, &want);
}

#[test]
fn steps_train_the_f32_weights_and_the_loss_falls() {
    let dev = kernels();
    let mut w = weights(&dev, true, DType::Bf16);
    let packing = packing();
    let (n, m) = (packing.ids.len(), packing.targets.len());
    let mut batch = PackedBatch::new(&dev, &w.config, n, m).unwrap();
    batch.set(&dev, &packing).unwrap();
    let mut acts = Activations::new(&dev, &w.config, n, m, Use::Train).unwrap();
    let parts = w.layout.specs.iter().map(|s| Part { range: s.range(), decays: s.decay });
    let hyper = Hyper { lr: 1e-3, warmup_steps: 0, ..Hyper::default() };
    let mut optimizer = Optimizer::new(&dev, parts, hyper, 10).unwrap();
    let (dlogprob, dentropy) = (dev.upload(&vec![-1.0 / m as f32; m]).unwrap(), dev.upload(&vec![0f32; m]).unwrap());
    let mut losses = Vec::new();
    for _ in 0..4 {
        forward(&dev, &w, &batch, &mut acts, 1.0).unwrap();
        losses.push(-dev.to_vec::<f32>(acts.logprob()).iter().sum::<f32>() / m as f32);
        let mut grads = w.zeros_like(&dev).unwrap();
        fill(&dev, grads.view_mut(), 0.0).unwrap();
        backward(&dev, &w, &batch, &mut acts, dlogprob.view(), dentropy.view(), &mut grads, 1.0).unwrap();
        let done = optimizer.update(&dev, w.data_mut(), grads.view(), 0.0).unwrap();
        assert!(matches!(done, Update::Applied { .. }));
        let stale = forward(&dev, &w, &batch, &mut acts, 1.0);
        assert!(matches!(stale, Err(haggle::Error::Shape { op: "forward", .. })), "{stale:?}");
        w.pack(&dev).unwrap();
    }
    assert!(losses.windows(2).all(|l| l[1] < l[0] - 0.05), "{losses:?}");
    let (master, read) = (dev.to_vec::<f32>(w.data()), w.get(w.layout.layers[0].q.weight));
    let range = w.layout.specs[w.layout.layers[0].q.weight.0].range();
    let want: Vec<bf16> = master[range.clone()].iter().map(|x| bf16::from_f32(*x)).collect();
    assert_eq!(dev.to_vec::<bf16>(read), want, "what a forward reads is the f32 weights, rounded");
    assert!(master[range].iter().any(|x| bf16::from_f32(*x).to_f32() != *x), "the weights that train are finer");
}

#[test]
fn the_cpu_refuses_bf16() {
    let cpu = Device::open("cpu", 1).unwrap();
    let refused = Weights::init(&cpu, config(true), 1).unwrap().compute_in(&cpu, DType::Bf16).err().unwrap();
    assert!(refused.to_string().contains("model.dtype"), "{refused}");
}
