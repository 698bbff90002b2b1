//! A run that goes on: its directory tells the truth, whatever was changed, moved, damaged or deleted in between.

use crate::support::cli::{SMALL, command, haggle, haggle_with, write_products};
use haggle::config::Config;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const ONE: [&str; 2] = ["--set", "eval.best_of=1"];

/// Trains with small sizes into `run`.
fn train(dir: &Path, more: &[&str]) -> crate::support::cli::Said {
    haggle(dir, &[&["train"][..], &SMALL, &ONE, &["--out", "run"], more].concat())
}

/// Goes on with `run` as it is told to after Ctrl-C.
fn resume(dir: &Path, more: &[&str]) -> crate::support::cli::Said {
    haggle(dir, &[&["train", "--resume", "--out", "run"], more].concat())
}

/// Trains and is killed when `rows` steps stand in metrics.jsonl.
fn train_killed(dir: &Path, rows: usize, more: &[&str]) {
    let args = [&["train"][..], &SMALL, &ONE, &["--out", "run"], more].concat();
    let mut child = command(dir, &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let patience = Instant::now();
    while steps(dir, "metrics.jsonl").len() < rows {
        assert!(child.try_wait().expect("lives").is_none(), "the run ended before it was killed");
        assert!(patience.elapsed() < Duration::from_secs(300), "no step within five minutes");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("kills");
    child.wait().expect("ends");
}

/// The steps of a log's rows, a torn last one aside.
fn steps(dir: &Path, log: &str) -> Vec<u64> {
    let text = fs::read_to_string(dir.join("run").join(log)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["step"].as_u64()).collect()
}

fn config(dir: &Path) -> (String, Config) {
    let text = fs::read_to_string(dir.join("run/config.toml")).expect("reads");
    let config = Config::parse("config.toml", &text, &[]).expect("a config");
    (text, config)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn the_config_is_that_of_the_last_resume_that_was_accepted() {
    let dir = folder();
    let at = dir.path();
    train_killed(at, 1, &["--steps", "50", "--set", "run.checkpoint_every=100"]);
    // Before its first checkpoint a run begins again, with what it is told.
    resume(at, &["--steps", "2", "--seed", "9", "--set", "run.keep=1"]).done();
    let (text, now) = config(at);
    assert_eq!((now.grpo.steps, now.seed, now.run.checkpoint_every, now.run.keep), (2, 9, 100, 1));
    let saved = fs::read_to_string(at.join("run/checkpoints/step-000002/haggle/config.toml")).expect("reads");
    assert_eq!(saved, text);
    // As it is told after a kill.
    resume(at, &[]).done();
    assert_eq!(config(at).0, text);
    // Behind a checkpoint what changes bits is refused, and nothing is written.
    for (set, key) in [("seed=3", "seed: 3, not 9"), ("grpo.kl=0.5", "grpo.kl: 0.5"), ("task.name=menu", "task.name")] {
        let said = resume(at, &["--set", set, "--set", "run.keep=5"]);
        assert!(said.code == 2 && said.err.contains(key), "{said:?}");
        assert_eq!(config(at).0, text, "{set}");
        assert!(!at.join("run/taught").exists(), "{set}");
    }
    // What changes none is accepted, and written.
    resume(at, &["--set", "run.keep=5", "--threads", "2"]).done();
    let (_, now) = config(at);
    assert_eq!((now.run.keep, now.threads, now.seed), (5, 2, 9));
    // A checkpoint that is damaged refuses too.
    let text = config(at).0;
    fs::write(at.join("run/checkpoints/step-000002/model.safetensors"), "gone").expect("writes");
    resume(at, &["--set", "run.keep=7"]).refused(3, &["model.safetensors", "checksum"]);
    assert_eq!(config(at).0, text);
}

#[test]
fn products_and_models_may_move_and_must_not_change() {
    let dir = folder();
    let at = dir.path();
    write_products(&at.join("p"));
    haggle(at, &[&["train"][..], &SMALL, &ONE, &["--steps", "1", "--out", "m"]].concat()).done();
    train(at, &["--steps", "1", "--products", "p", "--model", "m"]).done();
    let products = at.join("p/books.json");
    let (own, before) = (fs::read_to_string(&products).expect("reads"), config(at).0);
    // A record changes, any of them, also one that no evaluation is held on; one is gone.
    let whole: Vec<Value> = serde_json::from_str(&own).expect("JSON");
    for i in 0..=whole.len() {
        let mut other = whole.clone();
        match other.get_mut(i) {
            Some(record) => record["description"] = "Another one.".into(),
            None => drop(other.pop()),
        }
        fs::write(&products, serde_json::to_string(&other).expect("JSON")).expect("writes");
        resume(at, &[]).refused(3, &["p", "products.path", "books.json changed", "put it back"]);
    }
    // What a model is told besides its weights.
    let template = at.join("m/checkpoints/step-000001/chat_template.jinja");
    let text = fs::read_to_string(&template).expect("reads");
    let state = template.with_file_name("haggle");
    fs::rename(&state, at.join("state")).expect("moves");
    fs::write(&products, &own).expect("writes");
    fs::write(&template, format!("{text}{{# another #}}")).expect("writes");
    resume(at, &["--model", "m/checkpoints/step-000001"]).refused(3, &["model.base", "chat_template.jinja"]);
    fs::write(&template, text).expect("writes");
    fs::rename(at.join("state"), &state).expect("moves");
    // The same records written another way, with a file beside them that is none of products.
    let records: Value = serde_json::from_str(&own).expect("JSON");
    fs::write(&products, serde_json::to_string_pretty(&records).expect("JSON")).expect("writes");
    fs::write(at.join("p/README.txt"), "notes").expect("writes");
    resume(at, &[]).done();
    assert_eq!(config(at).0, before);
    // Moved, and told so.
    fs::rename(at.join("p"), at.join("q")).expect("moves");
    fs::rename(at.join("m"), at.join("n")).expect("moves");
    resume(at, &["--products", "q", "--model", "n"]).done();
    let now = config(at).1;
    assert!(now.products.path.ends_with("/q") && now.model.base.ends_with("/n"), "{now:?}");
    resume(at, &[]).done();
    // The moved ones are held to their contents as well.
    fs::write(at.join("q/books.json"), own.replacen("$9.50", "$9.60", 1)).expect("writes");
    resume(at, &[]).refused(3, &["q", "books.json changed"]);
    fs::write(at.join("q/books.json"), &own).expect("writes");
    haggle(at, &[&["train"][..], &SMALL, &ONE, &["--steps", "1", "--seed", "5", "--out", "other"]].concat()).done();
    resume(at, &["--model", "other"]).refused(3, &["other", "model.base", "the weights changed"]);
    resume(at, &[]).done();
}

#[test]
fn logs_that_were_deleted_are_told_and_block_nothing() {
    let dir = folder();
    let at = dir.path();
    train_killed(at, 3, &["--steps", "4"]);
    let saved = fs::read_to_string(at.join("run/latest")).expect("reads");
    let saved: u64 = saved.trim().trim_start_matches("step-").parse().expect("a step");
    fs::remove_file(at.join("run/episodes.jsonl")).expect("removes");
    fs::remove_dir_all(at.join("run/tensorboard")).expect("removes");
    let said = resume(at, &[]);
    let told = |part: &str| said.err.lines().filter(|line| line.contains(part)).count();
    assert_eq!(told(&format!("run/episodes.jsonl: its steps 1 to {saved} are gone")), 1, "{said:?}");
    assert_eq!(
        told(&format!("run/tensorboard: {saved} steps had no event; written from metrics.jsonl")),
        1,
        "{said:?}"
    );
    assert_eq!(steps(at, "metrics.jsonl"), [1, 2, 3, 4]);
    let episodes: Vec<u64> = (saved + 1..=4).flat_map(|step| [step; 4]).collect();
    assert_eq!(steps(at, "episodes.jsonl"), episodes);
    assert_eq!(times(at).iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 2, 3, 4]);
    said.done();
    // And once more, with both logs gone and TensorBoard's events kept.
    fs::remove_file(at.join("run/episodes.jsonl")).expect("removes");
    fs::remove_file(at.join("run/metrics.jsonl")).expect("removes");
    let said = resume(at, &[]);
    let gone = said.err.lines().filter(|line| line.contains("its steps 1 to 4 are gone")).count();
    assert_eq!((said.code, gone, times(at).len()), (0, 2, 4), "{said:?}");
    assert!(!resume(at, &[]).err.contains("gone"), "it is told once");
}

/// Steps and wall times of TensorBoard's events: field 1 of an event is its time, field 2 its step.
fn times(dir: &Path) -> Vec<(u64, f64)> {
    let path = dir.join("run/tensorboard").join(haggle::run::tensorboard::FILE_NAME);
    let (bytes, mut at, mut all) = (fs::read(path).expect("reads"), 0, Vec::new());
    while at < bytes.len() {
        let n = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
        let event = &bytes[at + 12..at + 12 + n];
        let wall = f64::from_le_bytes(event[1..9].try_into().expect("8 bytes"));
        all.extend((event[9] == 16).then(|| (u64::from(event[10]), wall)));
        at += n + 16;
    }
    all
}

#[test]
fn tensorboard_keeps_the_times_of_the_steps_before() {
    let dir = folder();
    let at = dir.path();
    train_killed(at, 3, &["--steps", "5"]);
    let before = times(at);
    let saved = fs::read_to_string(at.join("run/latest")).expect("reads");
    let saved: usize = saved.trim().trim_start_matches("step-").parse().expect("a step");
    resume(at, &[]).done();
    let after = times(at);
    assert_eq!(after.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(after[..saved], before[..saved], "to the bit");
    assert!(after[saved].1 > before[saved - 1].1);
}

#[test]
fn damaged_weights_are_named_wherever_they_are_opened() {
    let dir = folder();
    let at = dir.path();
    train(at, &["--steps", "1"]).done();
    fs::write(at.join("ids.jsonl"), "{\"ids\": [1, 2, 3]}\n").expect("writes");
    let checkpoint = at.join("run/checkpoints/step-000001");
    // A bit of a weight, a byte of the tokenizer: both still load.
    for (file, from_end) in [("model.safetensors", 4096), ("tokenizer_config.json", 1)] {
        let path = checkpoint.join(file);
        let own = fs::read(&path).expect("reads");
        let mut other = own.clone();
        let at_byte = own.len() - from_end;
        if file.ends_with("json") {
            other.push(b'\n')
        } else {
            other[at_byte] ^= 1
        }
        fs::write(&path, other).expect("writes");
        for model in ["run", "run/checkpoints/step-000001"] {
            let said = [
                haggle(at, &["eval", "--model", model, "--rollouts", "1", "--set", "eval.products=1"]),
                haggle_with(at, &["chat", "--model", model], "quit\n"),
                haggle(at, &["score", "--model", model, "--input", "ids.jsonl"]),
                haggle(at, &["train", "--model", model, "--steps", "1", "--out", "next"]),
            ];
            said.into_iter().for_each(|said| said.refused(3, &[file, "checksum", "put it back"]));
        }
        resume(at, &[]).refused(3, &[file, "checksum"]);
        fs::write(&path, own).expect("writes");
    }
    haggle(at, &["score", "--model", "run", "--input", "ids.jsonl"]).done();
    // A folder without checksums is taken as it is.
    fs::remove_dir_all(checkpoint.join("haggle")).expect("removes");
    haggle(at, &["score", "--model", "run/checkpoints/step-000001", "--input", "ids.jsonl"]).done();
}

#[test]
fn a_finished_run_is_extended_with_a_schedule_of_its_own_and_keeps_its_first_table() {
    let dir = folder();
    let at = dir.path();
    train(at, &["--steps", "2"]).done();
    let first = fs::read(at.join("run/summary.json")).expect("reads");
    resume(at, &["--steps", "4"]).refused_lines(2, "--extend");
    haggle(at, &["train", "--extend", "2", "--out", "run"]).done();
    assert_eq!(steps(at, "metrics.jsonl"), [1, 2, 3, 4]);
    let text = fs::read_to_string(at.join("run/metrics.jsonl")).expect("reads");
    let lr: Vec<Value> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["lr"].clone()).collect();
    assert!(lr[..2] == lr[2..] && lr[0] != lr[1], "{lr:?}");
    let own = config(at).1;
    assert_eq!((own.grpo.steps, own.optim.restart_at), (4, 2));
    assert_eq!(fs::read(at.join("run/evaluations/step-000002/summary.json")).expect("reads"), first);
    assert!(at.join("run/summary.json").is_file());
    // What was extended is a run like any other.
    resume(at, &[]).done();
    haggle(at, &["train", "--extend", "1", "--out", "nowhere"]).refused(3, &["nowhere", "holds no run"]);
}
