//! Bad input through the binary: one line that names the place and what to do, the right exit code, nothing lost.

use crate::support::cli::{Said, haggle, haggle_with, write_products};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Trains in `dir` on a bad `option value`; nothing may have been started.
#[track_caller]
fn refused(dir: &Path, option: &str, value: &str, code: i32, parts: &[&str]) {
    let run = dir.join("never");
    haggle(dir, &["train", "--out", "never", option, value]).refused(code, parts);
    assert!(!run.exists(), "a refused run left {}", run.display());
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

#[test]
fn product_folders_that_are_missing_empty_or_broken_are_named() {
    let dir = dir();
    let at = dir.path();
    refused(at, "--products", "nowhere", 3, &["nowhere", "cannot read the product folder"]);
    fs::create_dir(at.join("empty")).expect("makes");
    refused(at, "--products", "empty", 3, &["empty", "no product files"]);
    write_products(&at.join("p"));
    let file = at.join("p/music.json");
    for (text, part) in [
        ("{\"title\":", "is not JSON"),
        ("{\"title\": 1}", "record 1: `title`: want text, got a number"),
        ("{\"products\": []}", "want an array of records, got an object"),
        ("[1]", "record 1: want an object"),
        ("[{\"list_price\": \"$1\"}]", "record 1: `title` is missing"),
    ] {
        fs::write(&file, text).expect("writes");
        refused(at, "--products", "p", 3, &["music.json", part]);
    }
}

#[test]
fn prices_that_cannot_be_are_named_by_file_and_record() {
    let dir = dir();
    let good = json!({"title": "Pen", "list_price": "$20.00", "highest_price": "$20.00", "lowest_price": "$9.00",
        "category": "office"});
    for (key, price) in [
        ("lowest_price", json!("-$3.00")),
        ("lowest_price", json!("$0.00")),
        ("list_price", json!("NaN")),
        ("highest_price", json!("cheap")),
        ("list_price", json!(null)),
        ("lowest_price", json!("$30.00")),
    ] {
        let mut bad = good.clone();
        bad[key] = price;
        fs::create_dir_all(dir.path().join("p")).expect("makes");
        fs::write(dir.path().join("p/office.json"), json!([good, bad]).to_string()).expect("writes");
        refused(dir.path(), "--products", "p", 3, &["office.json", "record 2", "price"]);
    }
}

/// A copy of the embedded model's folder.
fn model_folder(at: &Path) -> PathBuf {
    let folder = at.join("model");
    fs::create_dir_all(&folder).expect("makes");
    for entry in fs::read_dir(Path::new("assets/tiny")).expect("assets") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("copies");
        }
    }
    folder
}

fn edit_config(folder: &Path, key: &str, value: Value) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("reads")).expect("JSON");
    config[key] = value;
    fs::write(path, config.to_string()).expect("writes");
}

#[test]
fn model_folders_that_are_broken_are_named() {
    let dir = dir();
    let at = dir.path();
    refused(at, "--model", "nowhere", 3, &["nowhere", "no such folder"]);
    fs::create_dir(at.join("empty")).expect("makes");
    refused(at, "--model", "empty", 3, &["empty", "holds no model"]);

    let folder = model_folder(at);
    edit_config(&folder, "architectures", json!(["MambaForCausalLM"]));
    edit_config(&folder, "model_type", json!("mamba"));
    refused(at, "--model", "model", 3, &["config.json", "MambaForCausalLM", "Qwen3ForCausalLM"]);

    // Another family than the tensors are of.
    let folder = model_folder(at);
    edit_config(&folder, "architectures", json!(["LlamaForCausalLM"]));
    edit_config(&folder, "model_type", json!("llama"));
    refused(at, "--model", "model", 3, &["weight `model.layers.0.self_attn.", "no such tensor in this architecture"]);

    let folder = model_folder(at);
    edit_config(&folder, "intermediate_size", json!(320));
    refused(at, "--model", "model", 3, &["weight `model.layers.0.mlp.", "320"]);

    let folder = model_folder(at);
    let weights = fs::read(folder.join("model.safetensors")).expect("reads");
    fs::write(folder.join("model.safetensors"), &weights[..weights.len() / 2]).expect("writes");
    refused(at, "--model", "model", 3, &["model.safetensors", "truncated or corrupted"]);

    let folder = model_folder(at);
    fs::remove_file(folder.join("model.safetensors")).expect("removes");
    refused(at, "--model", "model", 3, &["model", "model.safetensors"]);

    let folder = model_folder(at);
    fs::write(folder.join("tokenizer.json"), "{}").expect("writes");
    refused(at, "--model", "model", 3, &["tokenizer.json"]);
}

#[test]
fn a_gpu_that_is_not_there_and_zero_rollouts_start_nothing() {
    let dir = dir();
    refused(dir.path(), "--device", "cuda", 4, &["device cuda", "--device cpu"]);
    refused(dir.path(), "--set", "rollout.group_size=0", 2, &["rollout.group_size", "1 or more"]);
    refused(dir.path(), "--steps", "0", 2, &["--steps 0", "grpo.steps"]);
    haggle(dir.path(), &["eval", "--model", "nowhere", "--rollouts", "0"]).refused(2, &["eval.rollouts", "1 or more"]);
    haggle(dir.path(), &["eval", "--model", "nowhere"]).refused(3, &["nowhere", "no such folder"]);
    haggle(dir.path(), &["eval", "--model", "x", "--seller", "nobody"]).refused(2, &["nobody", "boulware"]);
    haggle(dir.path(), &["chat", "--product", "books_0"]).refused(3, &["holds no product `books_0`"]);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_by_name() {
    let dir = dir();
    let folder = model_folder(dir.path());
    edit_config(&folder, "max_position_embeddings", json!(48));
    let small = ["--set", "rollout.products_per_step=1", "--set", "rollout.group_size=2"];
    let train =
        |more: &[&str]| -> Said { haggle(dir.path(), &[&["train", "--out", "run"][..], &small, more].concat()) };
    let said = train(&["--model", "model"]);
    said.refused(
        2,
        &["the buyer's prompt for", "does not fit", "a context of 48", "more); lower rollout.max_reply_tokens"],
    );
    assert!(!dir.path().join("run").exists(), "refused before the run is made");
    train(&["--model", "model", "--dry-run"]).refused(2, &["does not fit"]);
    haggle(dir.path(), &["eval", "--model", "model"]).refused(2, &["the buyer's prompt for", "a context of 48"]);
    let product = haggle(dir.path(), &["chat", "--model", "model"]);
    product.refused(2, &["context"]);
}

#[test]
fn a_run_directory_that_cannot_be_used_keeps_what_it_holds() {
    let dir = dir();
    let at = dir.path();
    fs::create_dir(at.join("mine")).expect("makes");
    fs::write(at.join("mine/thesis.txt"), "mine").expect("writes");
    haggle(at, &["train", "--out", "mine"]).refused(3, &["mine", "is not empty (`thesis.txt`)", "--out"]);
    assert_eq!(fs::read_dir(at.join("mine")).expect("reads").count(), 1);
    haggle(at, &["train", "--out", "mine/thesis.txt/run"]).refused(3, &["cannot make the run directory"]);
    haggle(at, &["train", "--out", "/dev/null/run"]).refused(3, &["/dev/null/run"]);
    assert_eq!(fs::read_to_string(at.join("mine/thesis.txt")).expect("reads"), "mine");

    fs::create_dir(at.join("run")).expect("makes");
    let config = haggle(at, &["config", "--out", "run"]).done();
    fs::write(at.join("run/config.toml"), config).expect("writes");
    haggle(at, &["train", "--out", "run"]).refused(3, &["already holds a run", "--resume"]);
    let lock = fs::File::create(at.join("run/lock")).expect("makes");
    lock.lock().expect("locks");
    haggle(at, &["train", "--out", "run", "--resume"]).refused(3, &["run", "in use by a live run"]);
    haggle(at, &["train", "--out", "nowhere", "--resume"]).refused(3, &["nowhere", "holds no run to resume"]);
    haggle(at, &["train", "--resume"]).refused(3, &["runs", "holds no run to resume"]);
}

#[test]
fn score_reads_the_same_from_standard_input_as_from_a_file() {
    let dir = dir();
    let lines = "{\"ids\": [1, 2, 3]}\n\n{\"ids\": [9]}\n";
    fs::write(dir.path().join("ids.jsonl"), lines).expect("writes");
    let args = |input| ["score", "--device", "cpu", "--model", "embedded", "--input", input];
    let want = haggle(dir.path(), &args("ids.jsonl")).done();
    assert_eq!(want.lines().count(), 2);
    assert_eq!(haggle_with(dir.path(), &args("-"), lines).done(), want);
    let bad = haggle_with(dir.path(), &args("-"), "{\"ids\": []}\n{\"ids\": [99999]}");
    bad.refused(3, &["standard input: line 2: ids[0] is 99999"]);
    haggle(dir.path(), &args("absent")).refused(3, &["absent"]);
}
