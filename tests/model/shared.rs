//! A prompt that several sequences begin with, run once: the model's logprobs keep their bits, its gradients their value.

use haggle::device::{DType, Device, Precision};
use haggle::model::config::Experts;
use haggle::model::{Activations, Family, ModelConfig, PackedBatch, Packing, Use, Weights, backward, forward};
use haggle::noise::Noise;

const VOCAB: usize = 97;

fn weights(dev: &Device, family: Family, compute: DType) -> Weights {
    let mut c = ModelConfig { family, compute, ..ModelConfig::tiny(VOCAB) };
    (c.hidden_size, c.num_hidden_layers, c.head_dim, c.intermediate_size) = (32, 2, 32, 48);
    (c.num_attention_heads, c.num_key_value_heads, c.max_position_embeddings) = (2, 1, 160);
    if family == Family::Qwen3Moe {
        c.experts = Some(Experts { count: 4, active: 2, intermediate_size: 24, normalise: true });
    }
    let mut w = Weights::init(dev, c, 5).unwrap();
    // Larger than a new model's, so that distributions are far from even.
    let bigger: Vec<f32> = dev.to_vec::<f32>(w.data()).iter().map(|x| x * 6.0).collect();
    dev.write(w.data_mut(), &bigger);
    w.pack(dev).unwrap();
    w
}

/// Sequences, and how many tokens each shares with the last one that shares none. Prompts end inside a chunk and at its end.
fn sequences() -> Vec<(Vec<i32>, usize)> {
    let noise = Noise::new(3, 3);
    let ids = |s: usize, len: usize| -> Vec<i32> {
        (0..len).map(|i| noise.below((s * 1000 + i) as u64, VOCAB) as i32).collect()
    };
    let on = |s: usize, stem: &[i32], shared: usize, own: usize| ([&stem[..shared], &ids(s, own)].concat(), shared);
    let (a, b) = (ids(0, 90), ids(1, 41));
    vec![(a.clone(), 0), on(2, &a, 37, 60), on(3, &a, 64, 1), on(4, &a, 37, 3), (b.clone(), 0), on(5, &b, 1, 40)]
}

/// From which token on a sequence carries loss: behind all that is shared.
const PROMPT: usize = 64;

fn packing(shared: bool) -> Packing {
    let mut packing = Packing::default();
    let loss = |s: usize, i: usize| i >= if s < 3 { PROMPT } else { 37 };
    for (s, (ids, n)) in sequences().iter().enumerate() {
        match n {
            n if shared && *n > 0 => packing.push_on_stem(*n, ids, |i| loss(s, i)),
            _ => packing.push(ids, |i| loss(s, i)),
        }
    }
    packing
}

/// Logprobs, and the flat gradient of a weighted sum of logprobs and entropies.
fn pass(dev: &Device, w: &Weights, packing: &Packing, for_use: Use) -> (Vec<f32>, Vec<f32>) {
    let (n, m) = (packing.ids.len(), packing.targets.len());
    let mut batch = PackedBatch::new(dev, &w.config, n + 3, m + 1).unwrap();
    batch.set(dev, packing).unwrap();
    let mut acts = Activations::new(dev, &w.config, n + 3, m + 1, for_use).unwrap();
    forward(dev, w, &batch, &mut acts, 1.0).unwrap();
    let logprob = dev.to_vec::<f32>(acts.logprob());
    if for_use != Use::Train {
        return (logprob, vec![]);
    }
    let noise = Noise::new(8, 8);
    let of = |from: u64| (0..m as u64).map(|i| noise.normal(from + i) as f32).collect::<Vec<_>>();
    let (dl, dh) = (dev.upload(&of(0)).unwrap(), dev.upload(&of(500)).unwrap());
    let mut dw = w.zeros_like(dev).unwrap();
    backward(dev, w, &batch, &mut acts, dl.view(), dh.view(), &mut dw, 1.0).unwrap();
    (logprob, dev.to_vec(dw.view()))
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

const FAMILIES: [Family; 4] = [Family::Qwen3, Family::Llama, Family::Qwen2, Family::Qwen3Moe];

#[test]
fn logprobs_have_the_bits_of_sequences_apart() {
    let (together, apart) = (packing(true), packing(false));
    assert_eq!(together.targets, apart.targets);
    assert!(together.ids.len() + 37 + 64 + 37 < apart.ids.len() + 1);
    for family in FAMILIES {
        for (dev, compute) in [
            (Device::open("cpu", 2).unwrap(), DType::F32),
            (Device::open_at("cpu", 1, Precision::Medium).unwrap(), DType::F32),
            (Device::open("emu", 2).unwrap(), DType::F32),
            (Device::open("emu", 2).unwrap(), DType::Bf16),
        ] {
            let w = weights(&dev, family, compute);
            let want = pass(&dev, &w, &apart, Use::Score).0;
            assert!(want.iter().any(|l| *l < -0.5));
            assert_eq!(
                bits(&pass(&dev, &w, &together, Use::Score).0),
                bits(&want),
                "{family:?} {compute:?} {}",
                dev.name()
            );
        }
    }
}

#[test]
fn gradients_are_those_of_sequences_apart_within_rounding() {
    let dev = Device::open("cpu", 2).unwrap();
    for family in FAMILIES {
        let w = weights(&dev, family, DType::F32);
        let (together, apart) =
            (pass(&dev, &w, &packing(true), Use::Train), pass(&dev, &w, &packing(false), Use::Train));
        assert_eq!(bits(&together.0), bits(&apart.0));
        assert_ne!(bits(&together.1), bits(&apart.1), "summed in another order");
        for spec in &w.layout.specs {
            let (a, b) = (&together.1[spec.range()], &apart.1[spec.range()]);
            let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
            let size = norm(&mut b.iter().map(|x| *x as f64));
            let off = norm(&mut a.iter().zip(b).map(|(a, b)| (*a - *b) as f64));
            assert!(off <= 2e-5 * size, "{family:?} {}: {:.1e} of {size:.1e}", spec.name, off / size);
        }
    }
}

#[test]
fn gradients_have_the_same_bits_on_cpu_and_emu_with_any_threads() {
    for family in FAMILIES {
        let on = |name: &str, threads: usize| {
            let dev = Device::open(name, threads).unwrap();
            pass(&dev, &weights(&dev, family, DType::F32), &packing(true), Use::Train).1
        };
        let want = bits(&on("cpu", 1));
        assert_eq!(bits(&on("cpu", 3)), want, "{family:?}");
        assert_eq!(bits(&on("emu", 2)), want, "{family:?}");
    }
}
