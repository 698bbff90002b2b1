//! `haggle serve` with a real language model, SmolLM2-135M-Instruct: the greedy text of `transformers`, stop strings, a hundred
//! streams at once. `tools/get_smollm2` fetches it (`HAGGLE_SMOLLM2` names another folder), `tools/golden_smollm2.py` made the
//! golden. Without the folder each test says so, past the captured output; with `HAGGLE_REQUIRE_MODELS=1` that is a failure.

use crate::common::Server;
use crate::support::cli::haggle;
use haggle::device::Device;
use haggle::generate::{Answer, Heard, How, Request, run};
use haggle::infer::{Engine, EngineConfig, Lean, Sampling};
use haggle::model::Weights;
use haggle::text::Chat;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

const CHAT: &str = "/v1/chat/completions";
/// Tokens of each of the streams.
const NEW: usize = 6;
const SEEDS: u64 = 5;

#[derive(serde::Deserialize)]
struct Golden {
    replies: Vec<Reply>,
}

#[derive(serde::Deserialize)]
struct Reply {
    prompt: String,
    ids: Vec<i32>,
    reply: Vec<i32>,
    text: String,
}

fn replies() -> Vec<Reply> {
    serde_json::from_slice::<Golden>(&std::fs::read("tests/goldens/smollm2.json").unwrap()).unwrap().replies
}

/// The model's folder, where there is one.
fn folder(test: &str) -> Option<PathBuf> {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or("target".into());
    let folder = std::env::var("HAGGLE_SMOLLM2").map_or(PathBuf::from(target).join("smollm2"), PathBuf::from);
    if folder.join("model.safetensors").exists() {
        return Some(folder.canonicalize().unwrap());
    }
    let required = std::env::var("HAGGLE_REQUIRE_MODELS").is_ok_and(|v| v == "1");
    assert!(!required, "HAGGLE_REQUIRE_MODELS=1, and {} holds no model", folder.display());
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: no SmolLM2 in {} (tools/get_smollm2)", folder.display());
    None
}

fn serve(folder: &Path) -> Server {
    Server::start(&["--model", &folder.display().to_string(), "--seats", "128"])
}

fn greedy(reply: &Reply) -> Value {
    json!({"messages": [{"role": "user", "content": reply.prompt}], "temperature": 0, "max_tokens": reply.reply.len(),
           "return_token_ids": true})
}

fn with(mut body: Value, more: Value) -> Value {
    more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
    body
}

/// A reply's text as it is told: without the token that ends it.
fn told(reply: &Reply) -> &str {
    reply.text.trim_end_matches("<|im_end|>")
}

/// The words of the chunks of a stream.
fn joined(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

#[test]
fn greedy_text_is_that_of_transformers_streamed_or_not_whatever_else_is_served() {
    let Some(folder) = folder("greedy_text_is_that_of_transformers_streamed_or_not_whatever_else_is_served") else {
        return;
    };
    let server = serve(&folder);
    let replies = replies();
    std::thread::scope(|scope| {
        for reply in &replies {
            let server = &server;
            scope.spawn(move || {
                let answer = server.post(CHAT, &greedy(reply)).ok();
                let choice = &answer["choices"][0];
                assert_eq!(choice["token_ids"], json!(reply.reply), "{}", reply.prompt);
                assert_eq!(choice["message"]["content"], told(reply), "{}", reply.prompt);
                let why = if told(reply) == reply.text { "length" } else { "stop" };
                assert_eq!(choice["finish_reason"], why, "{}", reply.prompt);
            });
            scope.spawn(move || {
                let events = server.stream(CHAT, &with(greedy(reply), json!({"stream": true})));
                assert_eq!(joined(&events), told(reply), "{}", reply.prompt);
            });
        }
    });
}

#[test]
fn a_stop_string_ends_the_text_before_it_and_no_chunk_holds_a_part_of_it() {
    let Some(folder) = folder("a_stop_string_ends_the_text_before_it_and_no_chunk_holds_a_part_of_it") else { return };
    let server = serve(&folder);
    for (i, reply) in replies().iter().enumerate().step_by(4) {
        let text = told(reply);
        let chars: Vec<char> = text.chars().collect();
        // Wherever tokens begin and end.
        let stop: String = chars[chars.len() / 2..].iter().take(3 + i / 4).collect();
        let want = &text[..text.find(&stop).unwrap()];
        let asked = with(greedy(reply), json!({"stop": [stop, "never said"]}));
        let answer = server.post(CHAT, &asked).ok();
        assert_eq!(answer["choices"][0]["message"]["content"], want, "stop {stop:?}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let events = server.stream(CHAT, &with(asked, json!({"stream": true})));
        let mut so_far = String::new();
        for event in &events {
            so_far += event["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
            assert!(want.starts_with(&so_far), "{so_far:?} of {text:?}, stop {stop:?}");
        }
        assert_eq!(so_far, want, "stop {stop:?}");
    }
}

/// What the engine alone says to each prompt, with one seed.
fn alone(engine: &mut Engine, weights: &Weights, chat: &Chat, replies: &[Reply], seed: u64) -> Vec<Answer> {
    let (sampling, ends) = (Sampling::plain(0.8, NEW, -1), vec![chat.end()]);
    let how = How { sampling, lean: Lean::default(), ends, stops: vec![], seed };
    let requests: Vec<Request> =
        replies.iter().map(|reply| Request { label: 1, sample: 0, prompt: reply.ids.clone() }).collect();
    let mut answers: Vec<Option<Answer>> = vec![None; replies.len()];
    run(engine, weights, &chat.tokenizer, &requests, &how, &mut |i, heard| {
        if let Heard::Answer(answer) = heard {
            answers[i] = Some(answer);
        }
        Ok(())
    })
    .unwrap();
    answers.into_iter().map(Option::unwrap).collect()
}

/// Asserts that the chunks of a stream are an answer, to the bit.
fn same(events: &[Value], want: &Answer, what: &str) {
    let (mut ids, mut logprobs) = (vec![], vec![]);
    for choice in events.iter().map(|event| &event["choices"][0]) {
        ids.extend(choice["token_ids"].as_array().into_iter().flatten().map(|id| id.as_i64().unwrap() as i32));
        let entries = choice["logprobs"]["content"].as_array().into_iter().flatten();
        logprobs.extend(entries.map(|entry| (entry["logprob"].as_f64().unwrap() as f32).to_bits()));
    }
    let bits: Vec<u32> = want.logprobs.iter().map(|logprob| logprob.to_bits()).collect();
    assert_eq!((joined(events), ids, logprobs), (want.text.clone(), want.ids.clone(), bits), "{what}");
}

#[test]
fn a_hundred_streams_at_once_are_each_what_generate_says_alone() {
    let Some(folder) = folder("a_hundred_streams_at_once_are_each_what_generate_says_alone") else { return };
    let (replies, server) = (replies(), serve(&folder));
    let ask = |reply: &Reply, seed: u64| {
        json!({"messages": [{"role": "user", "content": reply.prompt}], "temperature": 0.8, "max_tokens": NEW, "seed": seed,
               "stream": true, "logprobs": true, "return_token_ids": true})
    };
    let heard: Vec<Vec<Value>> = std::thread::scope(|scope| {
        let one = |i: usize| {
            let (server, asked) = (&server, ask(&replies[i % replies.len()], (i / replies.len()) as u64));
            scope.spawn(move || server.stream(CHAT, &asked))
        };
        let threads: Vec<_> = (0..replies.len() * SEEDS as usize).map(one).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(heard.len(), 100);
    drop(server);
    let dev = Device::open("cpu", 0).unwrap();
    let (weights, chat) = (Weights::load(&dev, &folder).unwrap(), Chat::load(&folder).unwrap());
    // A seat or two: hardly more is computed beside an answer than itself.
    let sizes = EngineConfig { max_pages: 160, max_rows: 64, max_seqs: 2, prefix_reuse: false, graphs: false };
    let mut engine = Engine::new(&dev, &weights.config, sizes).unwrap();
    for seed in 0..SEEDS {
        let answers = alone(&mut engine, &weights, &chat, &replies, seed);
        for (i, (reply, want)) in replies.iter().zip(&answers).enumerate() {
            same(&heard[seed as usize * replies.len() + i], want, &format!("seed {seed}: {}", reply.prompt));
        }
    }
    let (model, new) = (folder.display().to_string(), NEW.to_string());
    let args =
        ["generate", "--device", "cpu", "--json", "--model", &model, "--temperature", "0.8", "--max-new-tokens", &new];
    let said = haggle(Path::new("."), &[&args[..], &["--seed", "3", "--chat", &replies[1].prompt]].concat()).done();
    let said: Value = serde_json::from_str(said.trim()).unwrap();
    let text = joined(&heard[3 * replies.len() + 1]);
    assert_eq!(said["text"], text, "haggle generate, a process of its own");
}
