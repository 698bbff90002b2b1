//! A small model and a way to play episodes on an engine, for the engine's tests.

#![allow(dead_code, clippy::unwrap_used)]

use haggle::device::Device;
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling, SeqId, Stats};
use haggle::model::{Activations, ModelConfig, PackedBatch, Packing, Use, Weights, forward};
use haggle::noise::Noise;

pub const CONTEXT: usize = 200;
pub const VOCAB: usize = 61;

pub fn model() -> ModelConfig {
    ModelConfig {
        hidden_size: 32,
        num_hidden_layers: 2,
        head_dim: 8,
        intermediate_size: 48,
        max_position_embeddings: CONTEXT,
        ..ModelConfig::tiny(VOCAB)
    }
}

/// Random weights, large enough that distributions are far from flat.
pub fn weights(dev: &Device, seed: u64) -> Weights {
    let mut w = Weights::init(dev, model(), seed).unwrap();
    let mut data = dev.to_vec::<f32>(w.data());
    data.iter_mut().for_each(|x| *x *= 4.0);
    dev.write(w.data_mut(), &data);
    w
}

pub fn tokens(seed: u64, n: usize) -> Vec<i32> {
    (0..n as u64).map(|i| Noise::new(seed, 77).below(i, VOCAB) as i32).collect()
}

/// An episode: a prompt, then a turn sampled, then incoming tokens, a turn sampled, and so on.
#[derive(Clone)]
pub struct Episode {
    pub prompt: Vec<i32>,
    pub incoming: Vec<Vec<i32>>,
    pub sampling: Sampling,
    pub key: NoiseKey,
    /// Engine steps done before the episode is added.
    pub after: usize,
}

/// Groups of rollouts with one prompt each, of lengths around the page size, several turns.
pub fn episodes() -> Vec<Episode> {
    let mut all = vec![];
    for (g, len) in [1usize, 2, 31, 32, 33, 63, 64, 65, 97].into_iter().enumerate() {
        for r in 0..3usize {
            let stream = (g * 10 + r) as u64;
            let temperature = [1.0, 0.7, 0.0][g % 3];
            let truncated = [(0, 1.0, 0.0), (5, 0.9, 0.0), (0, 1.0, 0.05)][g % 3];
            all.push(Episode {
                prompt: tokens(g as u64, len),
                incoming: (0..r).map(|t| tokens(1000 + stream + t as u64, [0, 5, 33][(g + t) % 3])).collect(),
                sampling: Sampling {
                    top_k: truncated.0,
                    top_p: truncated.1,
                    min_p: truncated.2,
                    ..Sampling::plain(temperature, 12, 3)
                },
                key: NoiseKey { seed: 5, stream },
                after: 0,
            });
        }
    }
    all
}

/// One turn as it came out: tokens, the bits of their logprobs, truncated.
pub type TurnBits = (Vec<i32>, Vec<u32>, bool);

/// What an episode gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Played {
    pub turns: Vec<TurnBits>,
    pub ids: Vec<i32>,
}

pub fn sized(max_pages: usize, max_rows: usize) -> EngineConfig {
    EngineConfig { max_pages, max_rows, max_seqs: 64, prefix_reuse: true, graphs: false }
}

/// Plays all episodes at once; afterwards every page must be back.
pub fn play(dev: &Device, w: &Weights, config: EngineConfig, episodes: &[Episode]) -> (Vec<Played>, Stats) {
    let mut engine = Engine::new(dev, &w.config, config).unwrap();
    let played = play_on(&mut engine, w, episodes);
    assert_eq!(engine.pages_used(), engine.pages_cached(), "a released sequence holds a page");
    (played, engine.take_stats())
}

pub fn play_on(engine: &mut Engine, w: &Weights, episodes: &[Episode]) -> Vec<Played> {
    let mut out = vec![Played::default(); episodes.len()];
    let mut seqs: Vec<Option<SeqId>> = vec![None; episodes.len()];
    let mut left = episodes.len();
    for step in 0..20_000 {
        for (i, e) in episodes.iter().enumerate().filter(|(_, e)| e.after == step) {
            seqs[i] = Some(engine.add(&e.prompt, e.sampling, e.key).unwrap());
        }
        engine.step(w).unwrap();
        while let Some(turn) = engine.next_finished() {
            let (seq, i) = (turn.seq, seqs.iter().position(|s| *s == Some(turn.seq)).unwrap());
            let bits = turn.logprobs.iter().map(|x| x.to_bits()).collect();
            out[i].turns.push((turn.ids.to_vec(), bits, turn.truncated));
            match episodes[i].incoming.get(out[i].turns.len() - 1) {
                Some(incoming) if engine.ids(seq).len() + incoming.len() < CONTEXT => {
                    engine.extend(seq, incoming).unwrap();
                }
                _ => {
                    out[i].ids = engine.ids(seq).to_vec();
                    engine.release(seq);
                    left -= 1;
                }
            }
        }
        if left == 0 {
            return out;
        }
    }
    panic!("{left} episodes never ended");
}

/// Bits of the packed training forward's logprobs of every token but the first, of many sequences in one batch.
pub fn packed_logprobs(dev: &Device, w: &Weights, seqs: &[&[i32]], inv_temperature: f32) -> Vec<Vec<u32>> {
    let mut packing = Packing::default();
    seqs.iter().for_each(|ids| packing.push(ids, |_| true));
    let (n, m) = (packing.ids.len(), packing.targets.len());
    let mut batch = PackedBatch::new(dev, &w.config, n, m).unwrap();
    batch.set(dev, &packing).unwrap();
    let mut acts = Activations::new(dev, &w.config, n, m, Use::Train).unwrap();
    forward(dev, w, &batch, &mut acts, inv_temperature).unwrap();
    let mut logprobs = dev.to_vec::<f32>(acts.logprob()).into_iter().map(f32::to_bits);
    seqs.iter().map(|ids| logprobs.by_ref().take(ids.len() - 1).collect()).collect()
}

/// Episodes played to `want` play to the same added late, on few pages and rows, without reuse; and the training forward
/// of their tokens has the bits of their logprobs.
#[track_caller]
pub fn hold_late_and_in_training(dev: &Device, w: &Weights, eps: &[Episode], want: &[Played]) {
    let mut late = eps.to_vec();
    late.iter_mut().enumerate().for_each(|(i, e)| e.after = i * 3 % 7);
    let (got, stats) = play(dev, w, EngineConfig { prefix_reuse: false, ..sized(9, 24) }, &late);
    assert_eq!(got, *want, "late, few pages and rows, no reuse");
    assert!(stats.preemptions > 0 && stats.prefix_reused_tok == 0, "{stats:?}");
    for t in [1.0f32, 0.7] {
        let of_t: Vec<usize> = (0..eps.len()).filter(|i| eps[*i].sampling.temperature == t).collect();
        let ids: Vec<&[i32]> = of_t.iter().map(|i| &want[*i].ids[..]).collect();
        for (i, trained) in of_t.iter().zip(packed_logprobs(dev, w, &ids, 1.0 / t)) {
            let mut at = eps[*i].prompt.len();
            for (turn, (ids, logprobs, _)) in want[*i].turns.iter().enumerate() {
                assert_eq!(logprobs, &trained[at - 1..at - 1 + ids.len()], "episode {i} turn {turn}");
                at += ids.len() + eps[*i].incoming.get(turn).map_or(0, Vec::len);
            }
        }
    }
}
