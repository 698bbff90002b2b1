//! Sampling 64 sequences of 128 + 64 tokens with the engine, tiny shape, random weights.
//!
//! `cargo bench --bench decode -- [CASE] [--device NAME] [--matmul NAME] [--threads N] [--repeat R] [--rows N] [--graphs]
//! [--bf16] [--short] [--ops] [--json]`. Tokens are sampled tokens; the time holds their prompts too. `decode_distinct`: 64
//! prompts; `decode_groups`: 8 prompts with 8 rollouts each. `--short`: 16 sequences of 8 + 4 tokens, to try the bench itself.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Options, Workload, head_flops, measure, row_flops};
use haggle::device::DType;
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::model::flops::unread_row_flops;
use haggle::model::{ModelConfig, Weights};
use haggle::noise::Noise;

/// How many sequences, and the tokens of each.
#[derive(Clone, Copy)]
struct Sizes {
    seqs: usize,
    prompt: usize,
    new: usize,
}

const WHOLE: Sizes = Sizes { seqs: 64, prompt: 128, new: 64 };
const SHORT: Sizes = Sizes { seqs: 16, prompt: 8, new: 4 };

fn main() {
    let o = Options::parse();
    let dev = o.open();
    let w = Weights::init(&dev, ModelConfig::tiny(2048), 1).unwrap();
    let mut w = if o.bf16 { w.compute_in(&dev, DType::Bf16).unwrap() } else { w };
    let sizes = if o.short { SHORT } else { WHOLE };
    let Sizes { seqs, prompt, new } = sizes;
    for (name, prompts) in [("decode_distinct", seqs), ("decode_groups", 8)] {
        let config = EngineConfig { max_rows: o.rows, graphs: o.graphs, ..EngineConfig::sized_for(seqs, prompt + new) };
        let mut engine = Engine::new(&dev, &w.config, config).unwrap();
        let (mut round, mut digest) = (0, 0);
        let work = Workload { name, tokens: seqs * new, flops: flops(&w.config, sizes, prompts) };
        measure(&o, &dev, work, || {
            round += 1;
            w.data_mut();
            w.pack(&dev).unwrap();
            play(&mut engine, &w, sizes, prompts, round, &mut digest);
        });
        if o.json && round > 0 {
            println!("{}", serde_json::json!({ "case": name, "graphs": o.graphs, "digest": format!("{digest:016x}") }));
        }
        let stats = engine.take_stats();
        if !o.json && stats.steps > 0 {
            let n = round as f64;
            println!(
                "    a round: {} steps, {} prefill rows in {:.1} ms, {} decode rows in {:.1} ms",
                stats.steps / round,
                stats.rows_prefill / round,
                stats.prefill_s * 1e3 / n,
                stats.rows_decode / round,
                stats.decode_s * 1e3 / n
            );
        }
    }
}

/// Of the rows that must be run: each prompt once, each sampled token but the last of its sequence.
fn flops(c: &ModelConfig, Sizes { seqs, prompt, new }: Sizes, prompts: usize) -> f64 {
    let rows = |range: std::ops::Range<usize>| range.map(|pos| row_flops(c, pos as f64 + 1.0)).sum::<f64>();
    let heard: f64 = (0..prompt - 1).map(|pos| unread_row_flops(c, pos as f64 + 1.0)).sum();
    let decode = rows(prompt..prompt + new - 1) + new as f64 * head_flops(c);
    prompts as f64 * (heard + rows(prompt - 1..prompt)) + seqs as f64 * decode
}

/// One round; its tokens and the bits of their logprobs go into the digest.
fn play(engine: &mut Engine, w: &Weights, sizes: Sizes, prompts: usize, round: u64, digest: &mut u64) {
    let sampling = Sampling::plain(1.0, sizes.new, -1);
    for s in 0..sizes.seqs {
        let noise = Noise::new(round, (s % prompts) as u64);
        let prompt: Vec<i32> = (0..sizes.prompt as u64).map(|i| noise.below(i, w.config.vocab_size) as i32).collect();
        engine.add(&prompt, sampling, NoiseKey { seed: round, stream: s as u64 }).unwrap();
    }
    let mut sampled = 0;
    while engine.step(w).unwrap() {
        while let Some(turn) = engine.next_finished() {
            let seq = turn.seq;
            sampled += turn.ids.len();
            let bits = turn.ids.iter().map(|id| *id as u32).chain(turn.logprobs.iter().map(|lp| lp.to_bits()));
            *digest = bits.fold(*digest, |h, x| (h ^ x as u64).wrapping_mul(0x0100_0000_01b3));
            engine.release(seq);
        }
    }
    assert_eq!(sampled, sizes.seqs * sizes.new);
}
