//! `--lora`: an adapter trained, evaluated, gone on with, merged, and served, on the embedded model.

use crate::support::cli::{SMALL, Said, command, haggle, haggle_with};
use haggle::config::Config;
use haggle::setup::{Frozen, Setup};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How far the logprobs of the merged folder may be from the adapter's, which moved them by 0.16: W + (alpha / r) B A is
/// rounded once to f32 there, and sums are rounded elsewhere. Measured: 1.6e-5, of logprobs down to -22; at most twice that.
const MERGED: f64 = 3.2e-5;

fn args<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let lora = ["--lora", "rank=4,alpha=8", "--set", "eval.best_of=1", "--set", "optim.lr=0.01", "--out", run];
    [&["train"][..], &SMALL, &lora, more].concat()
}

fn train(dir: &Path, run: &str, more: &[&str]) -> Said {
    haggle(dir, &args(run, more))
}

/// The rows of a run, without what a clock says.
fn rows(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let mut rows: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    rows.iter_mut().for_each(|row| row.as_object_mut().unwrap().retain(|key, _| !key.contains("time/")));
    rows
}

/// Logprobs of fixed ids.
fn scored(dir: &Path, model: &str) -> Vec<f64> {
    let ids: Vec<u64> = (0..200).map(|i| 5 + i * 37 % 900).collect();
    let said = haggle_with(dir, &["score", "--model", model, "--input", "-"], &format!("{}\n", json!({ "ids": ids })));
    let line: Value = serde_json::from_str(&said.done()).unwrap();
    line["logprobs"].as_array().unwrap().iter().filter_map(Value::as_f64).collect()
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert!(a.len() == b.len() && a.len() > 150);
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn an_adapter_is_trained_evaluated_merged_and_served() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let told = train(at, "run", &["--steps", "2"]).done();
    assert!(told.contains("untrained") && told.contains("trained"), "{told}");
    for row in rows(&at.join("run")) {
        assert_eq!(row["rollout/bitwise_frac"], json!(1.0), "{row}");
    }
    let saved = at.join("run/checkpoints/step-000002");
    let config: Value = serde_json::from_slice(&fs::read(saved.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"], &config["peft_type"]), (&json!(4), &json!(8), &json!("LORA")));
    assert_eq!(config["base_model_name_or_path"], json!("embedded"));
    assert!(!saved.join("model.safetensors").exists() && !saved.join("config.json").exists());
    let bytes = fs::read(saved.join("adapter_model.safetensors")).unwrap();
    let names: Vec<String> = {
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        file.names().into_iter().map(|name| name.to_string()).collect()
    };
    let first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    assert!(names.len() == 2 * 7 * 4 && names.iter().any(|name| name == first), "{names:?}");

    haggle(at, &["eval", "--model", "run", "--set", "eval.best_of=1"]).done();
    haggle(at, &["generate", "--model", "run", "--max-new-tokens", "4", "--prompt", "hello"]).done();
    haggle(at, &["chat", "--model", "run", "--dry-run"]).done();
    haggle(at, &["merge", "run", "--out", "whole"]).done();
    let [base, adapter, whole] = ["embedded", "run", "whole"].map(|model| scored(at, model));
    let (merged, moved) = (apart(&adapter, &whole), apart(&adapter, &base));
    println!("merged {merged:.3e} from the adapter, which is {moved:.3e} from its base");
    assert!(merged <= MERGED && moved > 1e3 * MERGED, "{merged:e} {moved:e}");
    haggle(at, &["merge", "run", "--out", "whole"]).refused(3, &["whole", "holds a model already"]);
    haggle(at, &["merge", "whole", "--out", "other"]).refused(3, &["is a whole model already"]);
    haggle(at, &["merge", "run"]).refused(2, &["--out"]);

    // What is an adapter trains on as one.
    let on = ["train", "--model", "run", "--dry-run"];
    haggle(at, &on).refused(2, &["model.base: is an adapter", "--lora", "haggle merge"]);
    let other = haggle(at, &[&on[..], &["--lora", "rank=8"]].concat());
    other.refused(2, &["rank=4,alpha=8,targets=q_proj,", "is trained on as it is"]);
    haggle(at, &[&on[..], &["--lora", "rank=4,alpha=8"]].concat()).done();
    train(at, "more", &["--model", "run", "--steps", "1"]).done();
    assert_eq!(rows(&at.join("more"))[0]["rollout/bitwise_frac"], json!(1.0));
}

#[test]
fn a_killed_run_of_an_adapter_goes_on_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    train(at, "whole", &["--steps", "4"]).done();
    let mut child = command(at, &args("run", &["--steps", "4"]));
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let patience = Instant::now();
    while rows(&at.join("run")).len() < 2 {
        assert!(child.try_wait().unwrap().is_none() && patience.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let resume = ["train", "--resume", "--out", "run"];
    let changed = haggle(at, &[&resume[..], &["--set", "lora.rank=8"]].concat());
    assert!(changed.code == 2 && changed.err.contains("lora.rank: 8, not 4"), "{changed:?}");
    haggle(at, &resume).done();
    assert_eq!(rows(&at.join("run")), rows(&at.join("whole")));
    for file in ["adapter_model.safetensors", "haggle/optimizer.safetensors"] {
        let last = |run: &str| fs::read(at.join(run).join("checkpoints/step-000004").join(file)).unwrap();
        assert!(last("run") == last("whole"), "{file}");
    }
}

#[test]
fn what_spares_memory_changes_no_bit_of_an_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let saved = |run: &str, more: &[&str]| {
        train(dir.path(), run, &[&["--steps", "1"], more].concat()).done();
        assert_eq!(rows(&dir.path().join(run))[0]["rollout/bitwise_frac"], json!(1.0), "{run}");
        fs::read(dir.path().join(run).join("checkpoints/step-000001/adapter_model.safetensors")).unwrap()
    };
    let plain = saved("plain", &[]);
    assert!(saved("layers", &["--set", "train.checkpoint=layers"]) == plain);
    saved("apart", &["--set", "train.share_prefix=false"]);
    saved("moments", &["--set", "optim.moments=bf16"]);
}

#[test]
fn every_plan_counts_the_adapter() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "run", &["--steps", "1"]).done();
    for command in [&["serve", "--port", "0"][..], &["generate", "--prompt", "a"], &["chat"], &["chat", "--free"]] {
        let plan = |model: &str| {
            let args = [command, &["--model", model, "--dry-run", "--json"]].concat();
            let said = haggle(dir.path(), &args).done();
            serde_json::from_str::<serde_json::Value>(&said).unwrap()["plan_bytes"].clone()
        };
        assert!(plan("run")["adapter"].as_u64().is_some_and(|bytes| bytes > 0), "{command:?}");
        assert!(plan("embedded")["adapter"].is_null(), "{command:?}");
    }
}

#[test]
fn sft_trains_an_adapter_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    haggle(at, &["sft", "--generate", "24", "--write", "talks.jsonl"]).done();
    let sft = ["sft", "--model", "embedded", "--data", "talks.jsonl", "--batch", "8", "--threads", "1"];
    let own = ["--lora", "rank=3,targets=q_proj,v_proj", "--save-every", "1", "--out", "run"];
    haggle(at, &[&sft[..], &own].concat()).done();
    let config = fs::read_to_string(at.join("run/checkpoints/step-000003/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!((&config["target_modules"], &config["lora_alpha"]), (&json!(["q_proj", "v_proj"]), &json!(6)));
    let last = || fs::read(at.join("run/checkpoints/step-000003/adapter_model.safetensors")).unwrap();
    let whole = last();
    // Back to its second update, as a kill leaves it.
    fs::write(at.join("run/latest"), "step-000002\n").unwrap();
    haggle(at, &["sft", "--resume", "--out", "run"]).done();
    assert!(last() == whole);
    assert!(apart(&scored(at, "run"), &scored(at, "embedded")) > 1e-4);
    let named = haggle(at, &[&sft[..], &["--lora", "alpha=4"]].concat());
    named.refused(2, &["--lora: needs a rank"]);
}

#[test]
fn a_rank_stabilised_adapter_counts_by_the_root_of_its_rank_and_says_so_to_peft() {
    let dir = tempfile::tempdir().unwrap();
    let (at, sets) = (dir.path(), ["--steps", "1", "--set", "eval.best_of=1", "--set", "optim.lr=0.01"]);
    let begin =
        |run: &str, lora: &str| haggle(at, &[&["train"][..], &SMALL, &sets, &["--lora", lora, "--out", run]].concat());
    // The same factor, 2, said in two ways, is the same training to the bit.
    begin("root", "rank=4,alpha=4,rslora=true").done();
    begin("plain", "rank=4,alpha=8").done();
    let saved = |run: &str, file: &str| fs::read(at.join(run).join("checkpoints/step-000001").join(file)).unwrap();
    let config: Value = serde_json::from_slice(&saved("root", "adapter_config.json")).unwrap();
    assert_eq!((&config["use_rslora"], &config["lora_alpha"]), (&json!(true), &json!(4)));
    assert!(saved("root", "adapter_model.safetensors") == saved("plain", "adapter_model.safetensors"));
    assert_eq!(apart(&scored(at, "root"), &scored(at, "plain")), 0.0);
    let other = haggle(at, &["train", "--model", "root", "--lora", "rank=4,alpha=4", "--out", "on"]);
    other.refused(2, &["rank=4,alpha=4,rslora=true,targets=q_proj,", "is trained on as it is"]);
}

#[test]
fn buyer_seller_and_reference_read_one_copy_of_the_base() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "run", &["--steps", "1"]).done();
    let seller = dir.path().join("run").display().to_string();
    let mut config = Config::default();
    (config.model.seller, config.threads, config.lora.rank) = (seller, 1, 2);
    let setup = Setup::open(&config).unwrap();
    let Frozen::Model(seller) = &setup.seller else { panic!("a model of its own") };
    let (base, theirs) = (setup.base.weights.base().unwrap(), seller.weights.base().unwrap());
    assert!(Arc::ptr_eq(base, theirs) && seller.weights.adapter().is_some());
    let (trainer, plan) = haggle::train::rl::Trainer::new(&setup).unwrap();
    let own = &trainer.learner.weights;
    assert!(Arc::ptr_eq(base, own.base().unwrap()) && own.n_trained() < base.layout.len / 20);
    // Neither a gradient, a moment nor a copy of the base is anywhere.
    let bytes = |group: &str| plan.groups().iter().find(|g| g.0 == group).unwrap().1;
    assert_eq!(bytes("gradients"), 4 * own.n_trained());
    assert!(bytes("optimizer") < 9 * own.n_trained() + (1 << 16));
    assert!(bytes("weights") < base.size_bytes() + base.size_bytes() / 4, "{}", bytes("weights"));
    let mut dry = haggle::model::Plan::dry(&setup.dev);
    haggle::train::rl::planned(&config, &mut dry).unwrap();
    let (planned, real) = (dry.total_bytes(), plan.total_bytes());
    assert!(planned.abs_diff(real) < real / 100, "planned {planned}, held {real}");
}

#[test]
fn what_no_adapter_can_be_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for (lora, parts) in [
        ("rank=4,dropout=0.1", &["lora.dropout: is not computed"][..]),
        ("rank=4,targets=lm_head", &["lora.targets", "`lm_head`", "q_proj"]),
        ("rank=4,bias=all", &["--lora: `bias` is no key"]),
        ("rank=x", &["lora.rank"]),
    ] {
        haggle(dir.path(), &["train", "--lora", lora]).refused(2, parts);
    }
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing is begun");
}
