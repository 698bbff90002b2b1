//! Eight branches of one 512-token prefix against eight separate rollouts of the same, tiny shape, random weights.
//!
//! `cargo bench --bench branch -- [CASE] [--device NAME] [--matmul NAME] [--threads N] [--repeat R] [--rows N] [--json]`. Each branch hears 16 tokens of its
//! own and samples 32; tokens are the sampled ones. `branch_8`: the prefix is run once and forked; `separate_8`: eight
//! sequences that share nothing. Both say the same.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Options, Workload, head_flops, measure, row_flops};
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling, SeqId};
use haggle::model::flops::unread_row_flops;
use haggle::model::{ModelConfig, Weights};
use haggle::noise::Noise;

const K: usize = 8;
const PREFIX: usize = 512;
const HEARD: usize = 16;
const NEW: usize = 32;

fn main() {
    let o = Options::parse();
    let dev = o.open();
    let w = Weights::init(&dev, ModelConfig::tiny(2048), 1).unwrap();
    let rows = |range: std::ops::Range<usize>| range.map(|pos| row_flops(&w.config, pos as f64 + 1.0)).sum::<f64>();
    let heard =
        |range: std::ops::Range<usize>| range.map(|pos| unread_row_flops(&w.config, pos as f64 + 1.0)).sum::<f64>();
    let (start, end) = (PREFIX + HEARD - 1, PREFIX + HEARD + NEW - 1);
    let own = K as f64 * (heard(PREFIX..start) + rows(start..end) + NEW as f64 * head_flops(&w.config));
    // What the root says behind the prefix, before any branch hears anything.
    let config = EngineConfig { max_rows: o.rows, ..EngineConfig::sized_for(K + 1, PREFIX + HEARD + NEW + 1) };
    let config = EngineConfig { prefix_reuse: false, ..config };
    let first = {
        let mut engine = Engine::new(&dev, &w.config, config).unwrap();
        let root = root(&mut engine, &w);
        engine.ids(root)[PREFIX]
    };
    let mut said = Vec::new();
    for (name, prefixes) in [("branch_8", 1), ("separate_8", K)] {
        let mut pages = 0;
        let work = Workload { name, tokens: K * NEW, flops: own + prefixes as f64 * heard(0..PREFIX) };
        measure(&o, &dev, work, || {
            let mut engine = Engine::new(&dev, &w.config, config).unwrap();
            let asked = if prefixes == 1 { branches(&mut engine, &w) } else { separate(&mut engine, first) };
            while engine.step(&w).unwrap() {}
            pages = engine.pages_used();
            said.push(asked.iter().map(|seq| engine.ids(*seq).to_vec()).collect::<Vec<_>>());
        });
        if !o.json && pages > 0 {
            println!("    {pages} pages of KV at the end");
        }
    }
    assert!(said.windows(2).all(|pair| pair[0] == pair[1]), "branches and separate rollouts say the same");
}

fn noise(branch: usize) -> NoiseKey {
    NoiseKey { seed: 9, stream: branch as u64 }
}

fn prefix() -> Vec<i32> {
    (0..PREFIX as u64).map(|i| Noise::new(3, 3).below(i, 2048) as i32).collect()
}

fn heard(branch: usize) -> Vec<i32> {
    (0..HEARD as u64).map(|i| Noise::new(4, branch as u64).below(i, 2048) as i32).collect()
}

fn sampling(new: usize) -> Sampling {
    Sampling::plain(1.0, new, -1)
}

fn root(engine: &mut Engine, w: &Weights) -> SeqId {
    let root = engine.add(&prefix(), sampling(1), noise(K)).unwrap();
    while engine.step(w).unwrap() {}
    root
}

fn branches(engine: &mut Engine, w: &Weights) -> Vec<SeqId> {
    let root = root(engine, w);
    let branch = |k: usize| {
        let seq = engine.fork(root, sampling(NEW), noise(k)).unwrap();
        engine.extend(seq, &heard(k)).unwrap();
        seq
    };
    (0..K).map(branch).collect()
}

fn separate(engine: &mut Engine, first: i32) -> Vec<SeqId> {
    let prompt = |k: usize| [prefix(), vec![first], heard(k)].concat();
    (0..K).map(|k| engine.add(&prompt(k), sampling(NEW), noise(k)).unwrap()).collect()
}
