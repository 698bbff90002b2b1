//! Random adds, extends, forks, releases and steps on pools of random size: every logprob is the training forward's.

use crate::support::engine::{CONTEXT, packed_logprobs, sized, tokens, weights};
use haggle::device::Device;
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling, SeqId};
use haggle::noise::Noise;

/// What was sampled into a sequence: where, and the logprobs' bits.
type Samples = Vec<(usize, Vec<u32>)>;

struct Held {
    id: SeqId,
    waits: bool,
    samples: Samples,
}

#[test]
fn random_play_never_touches_another_sequence() {
    let dev = Device::open("cpu", 2).unwrap();
    let w = weights(&dev, 1);
    for seed in 0..12 {
        let dice = Noise::new(seed, 1);
        let pages = 7 + dice.below(1 << 20, 20);
        let config =
            EngineConfig { max_seqs: 12, prefix_reuse: seed % 4 != 0, ..sized(pages, 16 + dice.below(1 << 21, 150)) };
        let mut engine = Engine::new(&dev, &w.config, config).unwrap();
        let (mut held, mut done): (Vec<Held>, Vec<(Vec<i32>, Samples)>) = (vec![], vec![]);
        for t in 0..400u64 {
            let (pick, n) = (dice.below(4 * t + 1, held.len().max(1)), dice.below(4 * t + 2, 40));
            let key = NoiseKey { seed, stream: t };
            let sampling = Sampling::plain(1.0, 1 + n, 3);
            match dice.below(4 * t, 10) {
                0 | 1 if held.len() < 12 => {
                    let prompt = tokens(n as u64 % 3, 1 + dice.below(4 * t + 3, 90));
                    held.push(Held { id: engine.add(&prompt, sampling, key).unwrap(), waits: false, samples: vec![] });
                }
                2 if !held.is_empty() && held.len() < 12 && engine.ids(held[pick].id).len() < CONTEXT => {
                    let id = engine.fork(held[pick].id, sampling, key).unwrap();
                    // Samples of the present turn are not handed out yet, and are the first sequence's to hand out.
                    held.push(Held { id, waits: held[pick].waits, samples: held[pick].samples.clone() });
                }
                3 | 4 if !held.is_empty() && held[pick].waits => {
                    let seq = &mut held[pick];
                    if engine.ids(seq.id).len() + n < CONTEXT {
                        engine.extend(seq.id, &tokens(t, n)).unwrap();
                        seq.waits = false;
                    }
                }
                5 if !held.is_empty() && t % 3 == 0 => {
                    let seq = held.swap_remove(pick);
                    let ids = engine.ids(seq.id).to_vec();
                    engine.release(seq.id);
                    done.push((ids, seq.samples));
                }
                _ => {
                    engine.step(&w).unwrap();
                    while let Some(turn) = engine.next_finished() {
                        let bits: Vec<u32> = turn.logprobs.iter().map(|x| x.to_bits()).collect();
                        let id = turn.seq;
                        let at = engine.ids(id).len() - bits.len();
                        let seq = held.iter_mut().find(|h| h.id == id).unwrap();
                        seq.waits = true;
                        seq.samples.push((at, bits));
                    }
                }
            }
        }
        for seq in held.drain(..) {
            done.push((engine.ids(seq.id).to_vec(), seq.samples));
            engine.release(seq.id);
        }
        assert_eq!(engine.pages_used(), engine.pages_cached(), "seed {seed}: a page is lost");
        let ids: Vec<_> = done.iter().map(|d| &d.0[..]).collect();
        let trained = packed_logprobs(&dev, &w, &ids, 1.0);
        let sampled: usize = done.iter().flat_map(|d| &d.1).map(|s| s.1.len()).sum();
        assert!(sampled > 200, "seed {seed}: only {sampled} tokens sampled");
        for ((_, samples), trained) in done.iter().zip(&trained) {
            for (at, bits) in samples {
                assert_eq!(bits, &trained[at - 1..at - 1 + bits.len()], "seed {seed}, {config:?}");
            }
        }
    }
}
