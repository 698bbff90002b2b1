//! What crosses the bus in decode: nothing up while the same sequences go on, tokens and logprobs down, one wait a token.

use crate::support::engine::{CONTEXT, sized, tokens, weights};
use haggle::device::{Device, Traffic};
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::model::{ModelConfig, Weights};
use haggle::ops::attn::CHUNK;

/// Of every device, and with graphs where there are some, which is said.
fn engines(config: EngineConfig) -> Vec<(Engine, Weights, bool)> {
    let devices =
        [Device::open("cpu", 1).unwrap(), Device::open("emu", 2).unwrap()].into_iter().chain(crate::support::cuda());
    let with = |dev: &Device, graphs: bool| {
        let w = weights(dev, 1);
        (Engine::new(dev, &w.config, EngineConfig { graphs, ..config }).unwrap(), w, graphs)
    };
    let both =
        |dev: Device| if dev.replays() { vec![with(&dev, false), with(&dev, true)] } else { vec![with(&dev, false)] };
    devices.flat_map(both).collect()
}

/// A step, and what it moved.
fn step(engine: &mut Engine, w: &Weights) -> Traffic {
    let before = engine.device().traffic();
    assert!(engine.step(w).unwrap());
    engine.device().traffic().since(before)
}

#[test]
fn while_the_same_sequences_decode_only_tokens_come_down_and_new_pages_go_up() {
    // Five in a bucket of eight; prompts of different lengths, so pages are taken at different steps.
    for (mut engine, w, graphs) in engines(EngineConfig { prefix_reuse: false, ..sized(60, 256) }) {
        for i in 0..5 {
            let key = NoiseKey { seed: 3, stream: i };
            engine.add(&tokens(i, 4 + 3 * i as usize), Sampling::plain(1.0, 150, -1), key).unwrap();
        }
        let prefill = step(&mut engine, &w);
        assert!(prefill.uploads == 3 && prefill.waits == 1, "rows, sampling, page table: {prefill:?}");
        let first = step(&mut engine, &w);
        // How the prompts' rows were sampled is how theirs are, but in a bucket, whose rows are more.
        assert_eq!((first.uploads, first.downloads, first.waits), (1 + graphs as u64, 2, 1), "rows, and sampling");
        let (mut pages, mut quiet) = (engine.pages_used(), 0);
        for token in 0..100 {
            let (moved, now) = (step(&mut engine, &w), engine.pages_used());
            let table_bytes = moved.upload_bytes;
            assert_eq!(moved.uploads, (now > pages) as u64, "token {token}: the page table when it changed: {moved:?}");
            assert!(table_bytes <= (5 * CONTEXT.div_ceil(CHUNK) * 4) as u64 && table_bytes.is_multiple_of(4));
            assert_eq!((moved.downloads, moved.download_bytes, moved.waits), (2, 5 * 8, 1), "token {token}");
            (pages, quiet) = (now, quiet + (moved.uploads == 0) as usize);
        }
        // Each takes a page every 32 tokens, no two at once.
        assert!((80..90).contains(&quiet), "{quiet} of 100 tokens sent nothing up");
    }
}

#[test]
fn a_sequence_that_leaves_or_joins_costs_one_copy_of_rows_and_one_of_sampling() {
    for (mut engine, w, _) in engines(EngineConfig { prefix_reuse: false, ..sized(60, 256) }) {
        for i in 0..4u64 {
            let how = Sampling::plain(1.0, if i == 1 { 6 } else { 25 }, -1);
            engine.add(&tokens(i, 4), how, NoiseKey { seed: 3, stream: i }).unwrap();
        }
        let moved: Vec<Traffic> = (0..20).map(|_| step(&mut engine, &w)).collect();
        // Step 0 is the prompts', 1 the first of decode; one has its 6 tokens after step 5.
        let sent: Vec<u64> = moved.iter().map(|m| m.uploads).collect();
        let mut want = vec![0; 20];
        // How they are sampled is sent with the prompts, and again when they are fewer.
        (want[0], want[1], want[6]) = (3, 1, 2);
        assert_eq!(sent, want);
        assert_eq!(moved[6].download_bytes, 3 * 8);
        let gone = engine.next_finished().unwrap().seq;
        engine.release(gone);
        engine.add(&tokens(9, 4), Sampling::plain(1.0, 9, -1), NoiseKey { seed: 3, stream: 9 }).unwrap();
        let joins: Vec<u64> = (0..4).map(|_| step(&mut engine, &w).uploads).collect();
        // Its prompt runs beside the others' decode, in the page that was given back: the table may stand as it is. Behind the
        // prompt it has another place among the rows, and how they are sampled goes up once more.
        assert!((2..=3).contains(&joins[0]) && joins[1..] == [2, 0, 0], "{}: {joins:?}", engine.device().name());
    }
}

#[test]
fn a_step_that_fails_leaves_nothing_taken_for_sent() {
    let dev = Device::open("cpu", 1).unwrap();
    let (w, mut engine) =
        (weights(&dev, 1), Engine::new(&dev, &crate::support::engine::model(), sized(60, 256)).unwrap());
    let how = Sampling::plain(1.0, 30, -1);
    let key = NoiseKey { seed: 3, stream: 1 };
    engine.add(&tokens(1, 40), how, key).unwrap();
    (0..5).for_each(|_| assert!(engine.step(&w).unwrap()));
    // Weights whose heads are none: attention refuses, after the rows were sent.
    let bad = ModelConfig { num_attention_heads: 3, num_key_value_heads: 2, ..crate::support::engine::model() };
    let refused = engine.step(&Weights::init(&dev, bad, 1).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("H % Hk"), "{refused}");
    while engine.step(&w).unwrap() {}
    let got = engine.next_finished().unwrap().ids.to_vec();
    let mut alone = Engine::new(&dev, &w.config, sized(60, 256)).unwrap();
    alone.add(&tokens(1, 40), how, key).unwrap();
    while alone.step(&w).unwrap() {}
    assert_eq!(got, alone.next_finished().unwrap().ids);
}
