//! Conversations that grow past segments of 512 keys: a row is then walked on several blocks and merged, and has the bits of
//! training all the same, cold, warm, branched, cut into small chunks, and from graphs, whose launches are others from then on.

use crate::support::engine::{model, packed_logprobs, sized, tokens};
use haggle::device::record::Kind;
use haggle::device::{DType, Device};
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::model::{ModelConfig, Weights};

const NEW: usize = 8;

/// What a sequence sampled: its tokens, and the bits of their logprobs.
type Sampled = (Vec<i32>, Vec<u32>);

fn config() -> ModelConfig {
    ModelConfig { head_dim: 32, num_hidden_layers: 2, max_position_embeddings: 1100, ..model() }
}

fn weights(dev: &Device, dtype: DType) -> Weights {
    let mut w = Weights::init(dev, config(), 1).unwrap();
    let data: Vec<f32> = dev.to_vec::<f32>(w.data()).iter().map(|x| x * 4.0).collect();
    dev.write(w.data_mut(), &data);
    if dtype == DType::F32 { w } else { w.compute_in(dev, dtype).unwrap() }
}

fn key(stream: u64) -> NoiseKey {
    NoiseKey { seed: 9, stream }
}

fn engine(dev: &Device, w: &Weights, config: EngineConfig) -> Engine {
    Engine::new(dev, &w.config, config).unwrap()
}

/// One turns into its second segment, one into its third, one has the first; two begin alike.
fn prompts() -> Vec<Vec<i32>> {
    let long = tokens(1, 1020);
    vec![long[..508].to_vec(), long, tokens(2, 40), tokens(3, 511)]
}

fn sampled(engine: &mut Engine, w: &Weights, prompts: &[Vec<i32>], first_key: usize) -> Vec<Sampled> {
    let sampling = Sampling::plain(1.0, NEW, -1);
    let add = |(i, prompt): (usize, &Vec<i32>)| engine.add(prompt, sampling, key((first_key + i) as u64)).unwrap();
    let ids: Vec<_> = prompts.iter().enumerate().map(add).collect();
    let mut out = vec![(vec![], vec![]); ids.len()];
    while engine.step(w).unwrap() {
        while let Some(turn) = engine.next_finished() {
            let (seq, at) = (turn.seq, ids.iter().position(|id| *id == turn.seq).unwrap());
            out[at] = (turn.ids.to_vec(), turn.logprobs.iter().map(|x| x.to_bits()).collect());
            engine.release(seq);
        }
    }
    out
}

/// The training forward of prompts and what was sampled, bits of the logprobs of the latter.
fn trained(dev: &Device, w: &Weights, sampled: &[Sampled]) -> Vec<Vec<u32>> {
    let seqs: Vec<Vec<i32>> = prompts().into_iter().zip(sampled).map(|(p, s)| [p, s.0.clone()].concat()).collect();
    let all = packed_logprobs(dev, w, &seqs.iter().map(Vec::as_slice).collect::<Vec<_>>(), 1.0);
    all.iter().map(|bits| bits[bits.len() - NEW..].to_vec()).collect()
}

fn holds_everywhere(dev: &Device, w: &Weights) -> Vec<Sampled> {
    let cold = EngineConfig { prefix_reuse: false, ..sized(100, 4096) };
    let want = sampled(&mut engine(dev, w, cold), w, &prompts(), 0);
    assert!(want.iter().all(|(ids, _)| ids.len() == NEW));
    let logprobs: Vec<Vec<u32>> = want.iter().map(|s| s.1.clone()).collect();
    assert_eq!(trained(dev, w, &want), logprobs, "training on {}", dev.name());
    let mut warm = engine(dev, w, sized(100, 4096));
    (0..2).for_each(|_| assert_eq!(sampled(&mut warm, w, &prompts(), 0), want, "warm on {}", dev.name()));
    assert!(warm.take_stats().prefix_reused_tok > 1900);
    assert_eq!(
        sampled(&mut engine(dev, w, EngineConfig { max_rows: 77, ..cold }), w, &prompts(), 0),
        want,
        "in chunks"
    );
    assert_eq!(branched(dev, w), [want[0].clone(), beside(dev, w, &want[0])], "branched on {}", dev.name());
    want
}

/// The first prompt, and a branch of it from its second token on.
fn branched(dev: &Device, w: &Weights) -> [Sampled; 2] {
    let mut engine = engine(dev, w, sized(100, 4096));
    let first = engine.add(&prompts()[0], Sampling::plain(1.0, NEW, -1), key(0)).unwrap();
    assert!(engine.step(w).unwrap());
    let second = engine.fork(first, Sampling::plain(1.0, NEW, -1), key(7)).unwrap();
    while engine.step(w).unwrap() {}
    [first, second].map(|id| {
        let turn = engine.turn(id);
        (turn.ids.to_vec(), turn.logprobs.iter().map(|x| x.to_bits()).collect())
    })
}

/// What the branch gives as a sequence of its own, behind the token that it shares.
fn beside(dev: &Device, w: &Weights, first: &Sampled) -> Sampled {
    let prompt = [prompts()[0].clone(), first.0[..1].to_vec()].concat();
    let mut engine = engine(dev, w, sized(100, 4096));
    let id = engine.add(&prompt, Sampling::plain(1.0, NEW - 1, -1), key(7)).unwrap();
    while engine.step(w).unwrap() {}
    let turn = engine.turn(id);
    let bits = turn.logprobs.iter().map(|x| x.to_bits());
    ([&first.0[..1], turn.ids].concat(), first.1[..1].iter().copied().chain(bits).collect())
}

#[test]
fn rows_past_a_segment_are_those_of_training_cold_warm_and_branched() {
    let (cpu, emu) = (Device::open("cpu", 2).unwrap(), Device::open("emu", 2).unwrap());
    let want = holds_everywhere(&cpu, &weights(&cpu, DType::F32));
    assert_eq!(holds_everywhere(&emu, &weights(&emu, DType::F32)), want);
    let medium = Device::open_at("cpu", 2, haggle::device::Precision::Medium).unwrap();
    assert_ne!(holds_everywhere(&medium, &weights(&medium, DType::F32)), want);
    holds_everywhere(&emu, &weights(&emu, DType::Bf16));
}

#[test]
fn a_graph_is_captured_anew_where_one_more_segment_is_walked() {
    let dev = Device::open("emu", 2).unwrap();
    for dtype in [DType::F32, DType::Bf16] {
        let w = weights(&dev, dtype);
        let want = sampled(&mut engine(&dev, &w, sized(100, 4096)), &w, &prompts(), 0);
        let mut graphed = engine(&dev, &w, EngineConfig { graphs: true, ..sized(100, 4096) });
        // All four, of which the longest decides: up to 1024 keys, then up to the context.
        assert_eq!(sampled(&mut graphed, &w, &prompts(), 0), want);
        assert_eq!(graphed.take_stats().captures, 2);
        // Alone: one row of up to 512 keys, then of up to 1024.
        for captures in [2, 0] {
            assert_eq!(sampled(&mut graphed, &w, &prompts()[..1], 0), want[..1]);
            assert_eq!(graphed.take_stats().captures, captures);
        }
    }
}

#[test]
fn a_step_of_two_segments_launches_what_one_of_one_segment_does() {
    let dev = Device::open("emu", 1).unwrap();
    let w = weights(&dev, DType::F32);
    let mut engine = engine(&dev, &w, sized(100, 4096));
    engine.add(&prompts()[0], Sampling::plain(1.0, NEW, -1), key(0)).unwrap();
    let mut launches = vec![];
    loop {
        dev.start_recording(1000).unwrap();
        let stepped = engine.step(&w).unwrap();
        let events = dev.stop_recording().unwrap().events;
        if !stepped {
            break;
        }
        launches.push(events.iter().filter(|e| e.kind == Kind::Kernel).count());
    }
    // The prompt in two steps, then rows of 510 to 515 keys, of two layers.
    assert_eq!(launches[2..], [5 * 2 + 4; 6]);
}
