//! The whole model against `transformers`: logits, every gradient by name, greedy tokens. `tools/golden_model.py`
//! made the goldens, in f64; its floors are how far transformers itself is from them in f32, and in bf16 where our
//! kernels compute in it. Adapters likewise against `peft`, by `tools/golden_lora.py`.

use haggle::device::{Buffer, DType, Device, Precision};
use haggle::model::{
    Activations, KvPages, PackedBatch, Packing, PagedRows, Use, Weights, backward, forward, forward_paged,
};
use safetensors::SafeTensors;
use std::path::Path;

/// We may be this many times as far from f64 as transformers is.
const TIMES_FLOOR: f64 = 2.0;

#[derive(serde::Deserialize)]
struct Golden {
    sequences: Vec<Vec<i32>>,
    loss_weights: Vec<Vec<f32>>,
    #[serde(default)]
    greedy_prompt: Vec<i32>,
    #[serde(default)]
    greedy: Vec<i32>,
    loss: f64,
    floor_loss_relative: f64,
    floor_logits_max_abs: f64,
    floor_grad_relative_norm: f64,
}

struct Case {
    dev: Device,
    w: Weights,
    golden: Golden,
    tensors: Vec<u8>,
}

impl Case {
    fn load(name: &str, device: &str, compute: DType) -> Case {
        Case::load_on(Device::open(device, 2).unwrap(), name, compute)
    }

    fn load_on(dev: Device, name: &str, compute: DType) -> Case {
        let folder = Path::new("tests/goldens").join(name);
        let w = Weights::load(&dev, &folder).unwrap().compute_in(&dev, compute).unwrap();
        let golden = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        Case { dev, w, golden, tensors: std::fs::read(folder.join("golden.safetensors")).unwrap() }
    }

    /// The golden of an adapter over the model of another golden, held frozen.
    fn adapted(name: &str, base: &str, device: &str, compute: DType) -> Case {
        let (dev, goldens) = (Device::open(device, 2).unwrap(), Path::new("tests/goldens"));
        let base = Weights::load_frozen(&dev, &goldens.join(base), compute).unwrap().shared();
        let folder = goldens.join(name);
        let w = Weights::load_adapter(&dev, &base, &folder).unwrap();
        let golden = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        Case { dev, w, golden, tensors: std::fs::read(folder.join("golden.safetensors")).unwrap() }
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let all = SafeTensors::deserialize(&self.tensors).unwrap();
        all.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// Logits of each row of `ids` as one sequence, through pages.
    fn logits(&self, ids: &[i32]) -> Vec<f32> {
        let (dev, c, n) = (&self.dev, &self.w.config, ids.len());
        let mut rows = PagedRows::new(dev, c, n, 1, 3, n).unwrap();
        let mut kv = KvPages::new(dev, c, 3).unwrap();
        let mut acts = Activations::new(dev, c, n, n, Use::Decode).unwrap();
        let upto: Vec<i32> = (0..n as i32).collect();
        rows.set(dev, ids, &upto, &vec![0; n], &[1, 0, 2], &upto).unwrap();
        forward_paged(dev, &self.w, &rows, &mut kv, &mut acts).unwrap();
        dev.to_vec(acts.logits())
    }

    /// Loss and gradients of the packed sequences.
    fn gradients(&self) -> (f64, Buffer) {
        let (dev, c) = (&self.dev, &self.w.config);
        let mut packing = Packing::default();
        for (ids, weights) in self.golden.sequences.iter().zip(&self.golden.loss_weights) {
            packing.push(ids, |i| weights[i] != 0.0);
        }
        let weights: Vec<f32> = self.golden.loss_weights.concat().into_iter().filter(|w| *w != 0.0).collect();
        let (n, m) = (packing.ids.len(), packing.targets.len());
        assert_eq!(weights.len(), m);
        let mut batch = PackedBatch::new(dev, c, n, m).unwrap();
        batch.set(dev, &packing).unwrap();
        let mut acts = Activations::new(dev, c, n, m, Use::Train).unwrap();
        forward(dev, &self.w, &batch, &mut acts, 1.0).unwrap();
        let logprob = dev.to_vec::<f32>(acts.logprob());
        let loss = weights.iter().zip(&logprob).map(|(w, l)| -*w as f64 * *l as f64).sum();
        let dlogprob = dev.upload(&weights.iter().map(|w| -w).collect::<Vec<_>>()).unwrap();
        let dentropy = dev.upload(&vec![0f32; m]).unwrap();
        let mut dw = self.w.zeros_like(dev).unwrap();
        backward(dev, &self.w, &batch, &mut acts, dlogprob.view(), dentropy.view(), &mut dw, 1.0).unwrap();
        (loss, dw)
    }
}

fn equals_transformers(name: &str, case: Case) {
    let g = &case.golden;
    let got: Vec<f32> = g.sequences.iter().flat_map(|ids| case.logits(ids)).collect();
    let want = case.tensor("logits");
    assert_eq!(got.len(), want.len());
    let error = got.iter().zip(&want).map(|(a, b)| (*a as f64 - *b as f64).abs()).fold(0.0, f64::max);
    println!("{name}: logits max abs error {error:.3e}, floor {:.3e}", g.floor_logits_max_abs);
    assert!(error <= TIMES_FLOOR * g.floor_logits_max_abs, "{name}: logits off by {error:e}");

    let (loss, dw) = case.gradients();
    let off = (loss / g.loss - 1.0).abs();
    println!("{name}: loss off by {off:.3e} of it, floor {:.3e}", g.floor_loss_relative);
    assert!(off <= TIMES_FLOOR * g.floor_loss_relative, "{name}: loss {loss}, want {}", g.loss);
    let mut worst = (0.0, "");
    for spec in case.w.trained() {
        let (got, want) = (case.dev.to_vec::<f32>(dw.at(spec.range())), case.tensor(&format!("grad.{}", spec.name)));
        let square = |x: f32| x as f64 * x as f64;
        let off: f64 = got.iter().zip(&want).map(|(a, b)| square(a - b)).sum::<f64>().sqrt();
        let error = off / want.iter().map(|x| square(*x)).sum::<f64>().sqrt();
        if error > worst.0 || error.is_nan() {
            worst = (error, &spec.name);
        }
    }
    println!(
        "{name}: gradients' worst relative error {:.3e} ({}), floor {:.3e}",
        worst.0, worst.1, g.floor_grad_relative_norm
    );
    assert!(worst.0 <= TIMES_FLOOR * g.floor_grad_relative_norm, "{name}: {} off by {:e}", worst.1, worst.0);
}

fn greedy_equals_transformers(name: &str) {
    let case = Case::load(name, "cpu", DType::F32);
    let mut ids = case.golden.greedy_prompt.clone();
    let (start, vocab) = (ids.len(), case.w.config.vocab_size);
    for _ in 0..case.golden.greedy.len() {
        let logits = case.logits(&ids);
        let last = &logits[logits.len() - vocab..];
        let top = (0..vocab).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
        ids.push(top as i32);
    }
    assert_eq!(ids[start..], case.golden.greedy, "{name}");
}

#[test]
fn tied_model_equals_transformers() {
    equals_transformers("tied", Case::load("tied", "cpu", DType::F32));
}

#[test]
fn untied_model_equals_transformers() {
    equals_transformers("untied", Case::load("untied", "cpu", DType::F32));
}

#[test]
fn llama_with_scaled_rope_equals_transformers() {
    equals_transformers("llama", Case::load("llama", "cpu", DType::F32));
    equals_transformers("llama", Case::load("llama", "emu", DType::F32));
}

#[test]
fn qwen2_with_biases_equals_transformers() {
    equals_transformers("qwen2", Case::load("qwen2", "cpu", DType::F32));
    equals_transformers("qwen2", Case::load("qwen2", "emu", DType::F32));
}

#[test]
fn experts_equal_transformers() {
    equals_transformers("moe", Case::load("moe", "cpu", DType::F32));
    equals_transformers("moe", Case::load("moe", "emu", DType::F32));
}

#[test]
fn model_in_bf16_is_as_near_as_transformers_in_bf16() {
    let device = if crate::support::cuda().is_some() { "cuda:0" } else { "emu" };
    for name in ["bf16", "llama_bf16", "qwen2_bf16", "moe_bf16"] {
        equals_transformers(name, Case::load(name, device, DType::Bf16));
    }
}

/// Logits, and every gradient of a lora_A and a lora_B by name; the base is bf16 and read as f32.
#[test]
fn adapters_equal_peft() {
    for device in ["cpu", "emu"] {
        equals_transformers("lora_llama", Case::adapted("lora_llama", "llama", device, DType::F32));
        equals_transformers("lora_moe", Case::adapted("lora_moe", "moe", device, DType::F32));
    }
}

#[test]
fn adapters_in_bf16_are_as_near_as_peft_in_bf16() {
    let device = if crate::support::cuda().is_some() { "cuda:0" } else { "emu" };
    equals_transformers("lora_qwen2_bf16", Case::adapted("lora_qwen2_bf16", "qwen2_bf16", device, DType::Bf16));
}

/// Factors of products alone are bf16 there: it has to be nearer than transformers in bf16.
#[test]
fn model_at_medium_precision_is_nearer_than_transformers_in_bf16() {
    for name in ["bf16", "llama_bf16", "qwen2_bf16", "moe_bf16"] {
        let mut case = Case::load_on(Device::open_at("cpu", 2, Precision::Medium).unwrap(), name, DType::F32);
        for floor in [&mut case.golden.floor_logits_max_abs, &mut case.golden.floor_grad_relative_norm] {
            *floor /= TIMES_FLOOR;
        }
        equals_transformers(name, case);
    }
}

#[test]
fn greedy_tokens_equal_transformers() {
    greedy_equals_transformers("tied");
    greedy_equals_transformers("untied");
    greedy_equals_transformers("llama");
    greedy_equals_transformers("qwen2");
    greedy_equals_transformers("moe");
}
