//! SmolLM2-135M, real weights (tools/get_smollm2): decode of 1 and of 16 sequences, prefill, a training step, loading.
//!
//! `cargo bench --bench smollm2 -- [CASE] [--matmul NAME] [--threads N] [--repeat R] [--ops] [--json]`. `decode_1`,
//! `decode_16`: 64 tokens each behind prompts of 32, whose time is left out; weights frozen, held in bf16. `prefill_512`: one
//! prompt of 512 up to its first token. `train_8x512`: forward, backward, AdamW of 8 sequences of 512, each token but the
//! first with loss. `train_group_8x512`: the same of a group, whose first 384 tokens are one prompt without loss and run once;
//! `train_apart_8x512`: that prompt run by each. `load`: from the folder to the first token of a prompt of 32. `tools/bench_smollm2` runs it beside
//! transformers and llama.cpp.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Options, Workload, head_flops, measure, row_flops};
use haggle::device::{DType, Device};
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::model::flops::unread_row_flops;
use haggle::model::{Activations, ModelConfig, PackedBatch, Packing, Use, Weights, backward, forward};
use haggle::noise::Noise;
use haggle::ops::embed::fill;
use haggle::train::optimizer::{Hyper, Optimizer, Part};
use std::path::PathBuf;

const PROMPT: usize = 32;
const NEW: usize = 64;
const LONG: usize = 512;
const SEQS: usize = 8;
const SHARED: usize = 384;

fn main() {
    let o = Options::parse();
    let folder = PathBuf::from(std::env::var("HAGGLE_SMOLLM2").unwrap_or("target/smollm2".into()));
    if !folder.join("model.safetensors").exists() {
        eprintln!("no SmolLM2 in {}: run tools/get_smollm2", folder.display());
        return;
    }
    let dev = o.open();
    let w = Weights::load_frozen(&dev, &folder, DType::F32).unwrap().within(1024);
    decode(&o, &dev, &w, 1, "decode_1");
    decode(&o, &dev, &w, 16, "decode_16");
    let c = &w.config;
    let flops = (0..LONG - 1).map(|p| unread_row_flops(c, p as f64 + 1.0)).sum::<f64>() + last_row(c, LONG);
    measure(&o, &dev, Workload { name: "prefill_512", tokens: LONG, flops }, || first_token(&dev, &w, LONG));
    let flops = (0..PROMPT - 1).map(|p| unread_row_flops(c, p as f64 + 1.0)).sum::<f64>() + last_row(c, PROMPT);
    measure(&o, &dev, Workload { name: "load", tokens: 1, flops }, || {
        let w = Weights::load_frozen(&dev, &folder, DType::F32).unwrap().within(1024);
        first_token(&dev, &w, PROMPT);
    });
    type Pack = fn(&Weights, &mut Packing);
    let cases: [(&'static str, Pack); 3] = [
        ("train_8x512", |w, p| (0..SEQS as u64).for_each(|s| p.push(&prompt(w, s, LONG), |_| true))),
        ("train_group_8x512", |w, p| {
            group(w).iter().enumerate().for_each(|(s, ids)| match s {
                0 => p.push(ids, |i| i >= SHARED),
                _ => p.push_on_stem(SHARED, ids, |_| true),
            })
        }),
        ("train_apart_8x512", |w, p| group(w).iter().for_each(|ids| p.push(ids, |i| i >= SHARED))),
    ];
    for (name, pack) in cases.into_iter().filter(|(name, _)| name.contains(o.only.as_str())) {
        train(&o, &dev, Weights::load(&dev, &folder).unwrap().within(1024), name, pack);
    }
}

fn last_row(c: &ModelConfig, len: usize) -> f64 {
    row_flops(c, len as f64) + head_flops(c)
}

fn prompt(w: &Weights, seq: u64, len: usize) -> Vec<i32> {
    (0..len as u64).map(|i| Noise::new(1, seq).below(i, w.config.vocab_size) as i32).collect()
}

/// Every sequence past its prompt; then `NEW` tokens each. Only these are timed: a round begins where the last one ended.
fn decode(o: &Options, dev: &Device, w: &Weights, seqs: usize, name: &'static str) {
    if !name.contains(o.only.as_str()) {
        return;
    }
    let rounds = o.repeat + 3;
    let config = EngineConfig::sized_for(seqs, PROMPT + rounds * NEW + 2);
    let mut engine = Engine::new(dev, &w.config, config).unwrap();
    for s in 0..seqs as u64 {
        let sampling = Sampling::plain(1.0, rounds * NEW, -1);
        engine.add(&prompt(w, s, PROMPT), sampling, NoiseKey { seed: 1, stream: s }).unwrap();
    }
    engine.step(w).unwrap();
    let flops = (0..NEW).map(|p| last_row(&w.config, PROMPT + p)).sum::<f64>() * seqs as f64;
    measure(o, dev, Workload { name, tokens: seqs * NEW, flops }, || {
        for _ in 0..NEW {
            engine.step(w).unwrap();
        }
    });
}

fn first_token(dev: &Device, w: &Weights, len: usize) {
    let mut engine = Engine::new(dev, &w.config, EngineConfig::sized_for(1, len + 1)).unwrap();
    engine.add(&prompt(w, 9, len), Sampling::plain(0.0, 1, -1), NoiseKey { seed: 1, stream: 1 }).unwrap();
    while engine.next_finished().is_none() {
        engine.step(w).unwrap();
    }
}

/// Sequences that begin with one prompt.
fn group(w: &Weights) -> Vec<Vec<i32>> {
    let own = |s: u64| prompt(w, s + 1, LONG - SHARED);
    (0..SEQS as u64).map(|s| [prompt(w, 0, SHARED), own(s)].concat()).collect()
}

fn train(o: &Options, dev: &Device, mut w: Weights, name: &'static str, pack: fn(&Weights, &mut Packing)) {
    let mut packing = Packing::default();
    pack(&w, &mut packing);
    w.pack(dev).unwrap();
    let (c, n, m) = (w.config.clone(), packing.ids.len(), packing.targets.len());
    let mut batch = PackedBatch::new(dev, &c, n, m).unwrap();
    batch.set(dev, &packing).unwrap();
    let mut acts = Activations::new(dev, &c, n, m, Use::Train).unwrap();
    let mut grads = w.zeros_like(dev).unwrap();
    let parts = w.layout.specs.iter().map(|s| Part { range: s.range(), decays: s.decay });
    let mut optimizer = Optimizer::new(dev, parts, Hyper::default(), 1000).unwrap();
    let (dlogprob, dentropy) = (dev.upload(&vec![-1.0 / m as f32; m]).unwrap(), dev.upload(&vec![0f32; m]).unwrap());
    let rows = packing.positions.iter().map(|p| row_flops(&c, *p as f64 + 1.0)).sum::<f64>();
    let flops = 3.0 * (rows + m as f64 * head_flops(&c));
    measure(o, dev, Workload { name, tokens: n, flops }, || {
        forward(dev, &w, &batch, &mut acts, 1.0).unwrap();
        fill(dev, grads.view_mut(), 0.0).unwrap();
        backward(dev, &w, &batch, &mut acts, dlogprob.view(), dentropy.view(), &mut grads, 1.0).unwrap();
        optimizer.update(dev, w.data_mut(), grads.view(), 0.0).unwrap();
        w.pack(dev).unwrap();
    });
}
