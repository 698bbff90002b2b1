//! Forward, backward and AdamW on 64 x 192 packed tokens, tiny shape, random weights.
//!
//! `cargo bench --bench train_step -- [CASE] [--device NAME] [--matmul NAME] [--threads N] [--repeat R] [--ops] [--json]`.
//! Every token but a sequence's first carries loss (next-token cross-entropy, mean over tokens). A step ends with the weights
//! packed for the next forward, as a learner's does.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Options, Workload, head_flops, measure, row_flops};
use haggle::model::{Activations, ModelConfig, PackedBatch, Packing, Use, Weights, backward, forward};
use haggle::noise::Noise;
use haggle::ops::embed::fill;
use haggle::train::optimizer::{Hyper, Optimizer, Part};

const SEQS: usize = 64;
const LEN: usize = 192;

fn main() {
    let o = Options::parse();
    let dev = o.open();
    let mut w = Weights::init(&dev, ModelConfig::tiny(2048), 1).unwrap();
    let c = w.config.clone();
    let mut packing = Packing::default();
    for s in 0..SEQS as u64 {
        let ids: Vec<i32> = (0..LEN as u64).map(|i| Noise::new(1, s).below(i, c.vocab_size) as i32).collect();
        packing.push(&ids, |_| true);
    }
    w.pack(&dev).unwrap();
    let m = packing.targets.len();
    let mut batch = PackedBatch::new(&dev, &c, SEQS * LEN, m).unwrap();
    batch.set(&dev, &packing).unwrap();
    let mut acts = Activations::new(&dev, &c, SEQS * LEN, m, Use::Train).unwrap();
    let mut grads = w.zeros_like(&dev).unwrap();
    let parts = w.layout.specs.iter().map(|s| Part { range: s.range(), decays: s.decay });
    let mut optimizer = Optimizer::new(&dev, parts, Hyper::default(), 1000).unwrap();
    let (dlogprob, dentropy) = (dev.upload(&vec![-1.0 / m as f32; m]).unwrap(), dev.upload(&vec![0f32; m]).unwrap());
    let forward_flops: f64 =
        SEQS as f64 * (0..LEN).map(|p| row_flops(&c, p as f64 + 1.0)).sum::<f64>() + m as f64 * head_flops(&c);
    let work = |name, times| Workload { name, tokens: SEQS * LEN, flops: times * forward_flops };
    measure(&o, &dev, work("forward", 1.0), || forward(&dev, &w, &batch, &mut acts, 1.0).unwrap());
    measure(&o, &dev, work("train_step", 3.0), || {
        forward(&dev, &w, &batch, &mut acts, 1.0).unwrap();
        fill(&dev, grads.view_mut(), 0.0).unwrap();
        backward(&dev, &w, &batch, &mut acts, dlogprob.view(), dentropy.view(), &mut grads, 1.0).unwrap();
        optimizer.update(&dev, w.data_mut(), grads.view(), 0.0).unwrap();
        w.pack(&dev).unwrap();
    });
}
