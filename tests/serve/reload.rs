//! Another checkpoint under a running `haggle serve`: SIGHUP and `POST /admin/reload` serve it, what runs is not dropped and is one
//! model's from its first token to the last, and a model that cannot be read changes nothing.

use crate::common::{Server, answer};
use crate::support::cli::haggle;
use haggle::noise::Noise;
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;

const CHAT: &str = "/v1/chat/completions";
const RELOAD: &str = "/admin/reload";

/// The embedded model as a folder, its numbers moved a little by `seed`; 0 moves none. In place of what stands there at once.
fn model(dir: &Path, seed: u64) {
    let to = dir.join("m");
    std::fs::create_dir_all(&to).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(format!("assets/tiny/{name}"), to.join(name)).unwrap();
    }
    let mut bytes = std::fs::read("assets/tiny/model.safetensors").unwrap();
    let begin = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    if seed > 0 {
        // The low bits of numbers, whatever they are of: other weights, about as large.
        let noise = Noise::new(90, seed);
        bytes[begin..]
            .iter_mut()
            .step_by(2)
            .enumerate()
            .for_each(|(i, byte)| *byte ^= noise.bits(i as u64) as u8 & 0x7f);
    }
    std::fs::write(to.join("new"), bytes).unwrap();
    std::fs::rename(to.join("new"), to.join("model.safetensors")).unwrap();
}

fn asked() -> Value {
    json!({"messages": [{"role": "user", "content": "turn 1/6"}], "max_tokens": 24, "seed": 7, "logprobs": true})
}

/// Text and logprobs of an answer.
fn told(body: &Value) -> (Value, Vec<Value>) {
    let choice = &body["choices"][0];
    let logprobs = choice["logprobs"]["content"].as_array().unwrap().iter().map(|one| one["logprob"].clone()).collect();
    (choice["message"]["content"].clone(), logprobs)
}

/// What `haggle generate` says with the folder as it is.
fn generated(dir: &Path) -> (Value, Vec<Value>) {
    let args = [
        "generate",
        "--model",
        "m",
        "--device",
        "cpu",
        "--chat",
        "turn 1/6",
        "--seed",
        "7",
        "--max-new-tokens",
        "24",
        "--json",
    ];
    let line: Value = serde_json::from_str(haggle(dir, &args).done().lines().next().unwrap()).unwrap();
    (line["text"].clone(), line["logprobs"].as_array().unwrap().clone())
}

#[test]
fn a_new_checkpoint_is_served_and_what_runs_is_of_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path(), 0);
    // SIGHUP does its own thing, also where this test runs under nohup.
    let server = Server::start_under(dir.path(), &["env", "--default-signal=HUP"], &["--model", "m", "--seats", "2"]);
    let long = json!({"prompt": "Hi", "max_tokens": 700, "temperature": 50.0, "seed": 3});
    let first = server.post(CHAT, &asked()).ok();
    assert_eq!(told(&first), generated(dir.path()));
    let whole = server.post("/v1/completions", &long).ok();
    for (n, by_signal) in [(1, true), (2, false)] {
        model(dir.path(), n);
        let mut running = server.send("POST", "/v1/completions", "connection: close\r\n", &long.to_string());
        server.wait_until("it runs", |ready| ready["running"] == 1);
        if by_signal {
            server.signal("-HUP");
            server.wait_until("it is reloaded", |ready| ready["reloads"] == n);
        } else {
            let done = server.post(RELOAD, &json!({})).ok();
            assert_eq!(done["reloads"], n);
        }
        let mut text = String::new();
        running.read_to_string(&mut text).unwrap();
        let running = answer(&text).ok();
        if n == 1 {
            assert_eq!(running["choices"], whole["choices"], "it is of the weights it began with");
        }
        let now = server.post(CHAT, &asked()).ok();
        assert_eq!(told(&now), generated(dir.path()));
        assert_ne!(told(&now).1, told(&first).1, "the cache of prompts knows of it");
    }
    let metrics = server.get("/metrics").json.as_str().unwrap().to_string();
    assert!(metrics.contains("haggle_reloads_total{done=\"true\"} 2"), "{metrics}");
}

#[test]
fn a_model_that_cannot_be_served_changes_nothing_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path(), 0);
    let keys = dir.path().join("keys");
    std::fs::write(&keys, "sk-right\n").unwrap();
    let server = Server::start_in(dir.path(), &["--model", "m", "--api-key-file", "keys"]);
    let post = |path: &str, body: &Value| server.ask("POST", path, Some("sk-right"), &body.to_string());
    let first = told(&post(CHAT, &asked()).ok());
    server.post(RELOAD, &json!({})).refused(401, "want a key");
    let damage = |name: &str, with: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let path = dir.path().join("m").join(name);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(dir.path().join("new"), with(bytes)).unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
    };
    damage("model.safetensors", &|bytes| bytes[..bytes.len() / 2].to_vec());
    post(RELOAD, &json!({})).refused(500, "the model stays as it was");
    model(dir.path(), 0);
    damage("chat_template.jinja", &|bytes| [&bytes[..], b" "].concat());
    post(RELOAD, &json!({})).refused(500, "chat template is another");
    model(dir.path(), 0);
    std::fs::remove_file(dir.path().join("m/config.json")).unwrap();
    post(RELOAD, &json!({})).refused(500, "the model stays as it was");
    assert_eq!(told(&post(CHAT, &asked()).ok()), first);
    model(dir.path(), 0);
    assert_eq!(post(RELOAD, &json!({})).ok()["reloads"], 1);
    assert_eq!(told(&post(CHAT, &asked()).ok()), first);
}
