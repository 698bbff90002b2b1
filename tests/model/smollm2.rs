//! A real language model, SmolLM2-135M-Instruct, against `transformers` in f32: greedy replies token for token, logprobs of
//! real text; and its rollouts have the bits of the training forward. `tools/get_smollm2` fetches it (`HAGGLE_SMOLLM2` names
//! another folder), `tools/golden_smollm2.py` made the golden. Without the folder each test says so, past the captured
//! output; with `HAGGLE_REQUIRE_MODELS=1` that is a failure.

use haggle::device::Device;
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::model::{Activations, PackedBatch, Packing, Use, Weights, forward};
use haggle::text::{Chat, Message, Role};
use std::io::Write;
use std::path::PathBuf;

/// Largest difference of a logprob from that of transformers, both in f32.
const LOGPROB: f64 = 1e-3;

#[derive(serde::Deserialize)]
struct Golden {
    replies: Vec<Reply>,
    ids: Vec<i32>,
    logprobs: Vec<f64>,
}

#[derive(serde::Deserialize)]
struct Reply {
    prompt: String,
    ids: Vec<i32>,
    reply: Vec<i32>,
    text: String,
}

fn golden() -> Golden {
    serde_json::from_slice(&std::fs::read("tests/goldens/smollm2.json").unwrap()).unwrap()
}

/// The model's folder, where there is one.
fn folder(test: &str) -> Option<PathBuf> {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or("target".into());
    let folder = std::env::var("HAGGLE_SMOLLM2").map_or(PathBuf::from(target).join("smollm2"), PathBuf::from);
    if folder.join("model.safetensors").exists() {
        return Some(folder);
    }
    let required = std::env::var("HAGGLE_REQUIRE_MODELS").is_ok_and(|v| v == "1");
    assert!(!required, "HAGGLE_REQUIRE_MODELS=1, and {} holds no model", folder.display());
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: no SmolLM2 in {} (tools/get_smollm2)", folder.display());
    None
}

fn sized(max_rows: usize) -> EngineConfig {
    EngineConfig { max_pages: 160, max_rows, max_seqs: 32, prefix_reuse: true, graphs: false }
}

/// Logprob of every token but the first, by the training forward.
fn packed(dev: &Device, w: &Weights, ids: &[i32]) -> Vec<f32> {
    let mut packing = Packing::default();
    packing.push(ids, |_| true);
    let (n, m) = (packing.ids.len(), packing.targets.len());
    let mut batch = PackedBatch::new(dev, &w.config, n, m).unwrap();
    batch.set(dev, &packing).unwrap();
    let mut acts = Activations::new(dev, &w.config, n, m, Use::Score).unwrap();
    forward(dev, w, &batch, &mut acts, 1.0).unwrap();
    dev.to_vec(acts.logprob())
}

#[test]
fn greedy_replies_and_prompts_equal_transformers() {
    let Some(folder) = folder("greedy_replies_and_prompts_equal_transformers") else { return };
    let dev = Device::open("cpu", 0).unwrap();
    let (w, chat) = (Weights::load(&dev, &folder).unwrap(), Chat::load(&folder).unwrap());
    let mut engine = Engine::new(&dev, &w.config, sized(256)).unwrap();
    let replies = golden().replies;
    let end = w.config.eos_token_ids[0] as i32;
    for reply in &replies {
        let prompt = chat.render(&[Message::new(Role::User, reply.prompt.as_str())], true).unwrap();
        let ids = chat.tokenizer.encode_marked(&prompt).unwrap();
        assert_eq!(ids, reply.ids, "{}", reply.prompt);
        let sampling = Sampling::plain(0.0, reply.reply.len(), end);
        engine.add(&reply.ids, sampling, NoiseKey { seed: 1, stream: 1 }).unwrap();
    }
    let mut told = 0;
    while engine.step(&w).unwrap() {
        while let Some(turn) = engine.next_finished() {
            let ids = turn.ids.to_vec();
            let at = replies.iter().position(|r| r.reply == ids);
            assert!(at.is_some(), "no reply of transformers': {:?}", chat.tokenizer.decode(&ids));
            assert_eq!(chat.tokenizer.decode(&ids).unwrap(), replies[at.unwrap()].text);
            told += 1;
        }
    }
    assert_eq!(told, replies.len());
}

#[test]
fn logprobs_of_real_text_equal_transformers() {
    let Some(folder) = folder("logprobs_of_real_text_equal_transformers") else { return };
    let dev = Device::open("cpu", 0).unwrap();
    let (w, golden) = (Weights::load(&dev, &folder).unwrap(), golden());
    let got = packed(&dev, &w, &golden.ids);
    assert_eq!((got.len(), golden.ids.len()), (golden.logprobs.len(), 2000));
    let off = got.iter().zip(&golden.logprobs).map(|(a, b)| (*a as f64 - b).abs()).fold(0.0, f64::max);
    println!("largest difference of a logprob: {off:.2e}");
    assert!(off < LOGPROB, "{off:e}");
}

#[test]
fn sampled_logprobs_have_the_bits_of_the_training_forward() {
    let Some(folder) = folder("sampled_logprobs_have_the_bits_of_the_training_forward") else { return };
    let dev = Device::open("cpu", 0).unwrap();
    let w = Weights::load(&dev, &folder).unwrap();
    let mut engine = Engine::new(&dev, &w.config, sized(48)).unwrap();
    let (prompts, end) = (golden().replies, w.config.eos_token_ids[0] as i32);
    let mut begun = vec![];
    for (i, prompt) in prompts[..4].iter().enumerate() {
        let key = NoiseKey { seed: 3, stream: i as u64 };
        begun.push(engine.add(&prompt.ids, Sampling::plain(1.0, 24, end), key).unwrap());
    }
    let mut turns = vec![];
    while engine.step(&w).unwrap() {
        while let Some(turn) = engine.next_finished() {
            turns.push((turn.seq, turn.ids.to_vec(), turn.logprobs.to_vec()));
        }
    }
    assert_eq!(turns.len(), 4);
    for (seq, ids, logprobs) in turns {
        let prompt = &prompts[begun.iter().position(|s| *s == seq).unwrap()].ids;
        let trained = packed(&dev, &w, &[&prompt[..], &ids].concat());
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(
            bits(&logprobs) == bits(&trained[prompt.len() - 1..]),
            "a rollout's logprobs are not the training forward's"
        );
    }
}
