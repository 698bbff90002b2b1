//! GRPO end to end on a small config: the same bits whoever runs it, exact logprobs, resume, interruption.

use haggle::cli::train::{self, Finished};
use haggle::config::{Config, Override};
use haggle::train::rl::Event;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A config of seconds, with overrides `key=value`.
fn config(overrides: &[&str]) -> Config {
    let small = [
        "rollout.products_per_step=2",
        "rollout.group_size=4",
        "grpo.steps=3",
        "grpo.micro_batch_tokens=1024",
        "run.checkpoint_every=1",
        "eval.products=2",
        "eval.rollouts=1",
        "eval.best_of=2",
        "threads=1",
    ];
    let all = small.iter().chain(overrides).map(|s| s.to_string());
    let parsed: Vec<Override> = all
        .map(|text| {
            let (key, value) = text.split_once('=').unwrap();
            Override { origin: text.clone(), key: key.into(), value: value.into() }
        })
        .collect();
    Config::load(None, &parsed).unwrap()
}

fn train(config: &Config, run: &Path, resume: bool) -> Finished {
    train::train(config, run, resume, &AtomicBool::new(false), &mut |_| ()).unwrap()
}

/// The rows of metrics.jsonl without what was measured.
fn metrics(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let row = |line: &str| haggle::run::metrics::without_times(&serde_json::from_str(line).unwrap());
    text.lines().map(|line| serde_json::to_string(&row(line)).unwrap()).collect()
}

/// Everything of a run that must have the same bits.
fn bits(run: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> =
        ["episodes.jsonl", "latest", "summary.json", "differences.json", "games.jsonl", "samples.jsonl"]
            .map(|name| (name.to_string(), fs::read(run.join(name)).unwrap()))
            .into();
    let latest = run.join("checkpoints").join(fs::read_to_string(run.join("latest")).unwrap().trim());
    for name in ["model.safetensors", "config.json", "tokenizer.json", "haggle/optimizer.safetensors"] {
        all.push((name.to_string(), fs::read(latest.join(name)).unwrap()));
    }
    all.push(("metrics.jsonl".into(), metrics(run).join("\n").into_bytes()));
    all
}

fn assert_same_bits(a: &Path, b: &Path) {
    for ((name, x), (_, y)) in bits(a).into_iter().zip(bits(b)) {
        assert!(x == y, "{name} differs between {} and {}", a.display(), b.display());
    }
}

#[test]
fn a_seed_gives_the_same_bits_with_one_thread_and_with_two() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    train(&config(&[]), &one, false);
    train(&config(&["threads=2"]), &two, false);
    assert_same_bits(&one, &two);
    assert_eq!(metrics(&one).len(), 3);
    let other = dir.path().join("other");
    train(&config(&["seed=2"]), &other, false);
    assert_ne!(metrics(&one), metrics(&other));
}

#[test]
fn rollout_and_training_logprobs_are_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    train(&config(&["grpo.optimizer_steps_per_batch=2", "grpo.kl=0.01", "rollout.temperature=0.8"]), dir.path(), false);
    for line in metrics(dir.path()) {
        let row: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(row["rollout/logprob_max_abs_diff"], 0.0, "{line}");
        assert!(row["policy/trained_tokens"].as_u64().unwrap() > 100, "{line}");
        assert!(row["policy/kl"].as_f64().unwrap() >= 0.0, "{line}");
        // two updates a batch: the second one is off policy
        assert!(row["policy/ratio_max_dev"].as_f64().unwrap() > 0.0, "{line}");
    }
}

#[test]
fn importance_weights_are_one_on_policy_and_move_with_each_update_off_policy() {
    for importance in ["tis", "mis"] {
        let run = |updates: &str| {
            let dir = tempfile::tempdir().unwrap();
            let correction = format!("loss.importance={importance}");
            let sets = ["grpo.steps=2", "rollout.group_size=6", "optim.lr=0.01", "optim.warmup_steps=0", &correction];
            train(&config(&[&sets[..], &[updates]].concat()), dir.path(), false);
            let page = fs::read_to_string(haggle::report::write(dir.path()).unwrap()).unwrap();
            assert!(page.contains("Importance weights") && page.contains("Importance ratios"));
            let rows = metrics(dir.path());
            rows.iter().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap()).collect::<Vec<_>>()
        };
        for row in run("grpo.optimizer_steps_per_batch=1") {
            let of = |key: &str| row[format!("importance/{key}")].as_f64().unwrap();
            assert_eq!([of("mean_weight"), of("ratio_one"), of("not_one"), of("bounded")], [1.0, 1.0, 0.0, 0.0]);
        }
        for row in run("grpo.optimizer_steps_per_batch=3") {
            let bins = row.as_object().unwrap().iter().filter(|(key, _)| key.starts_with("importance/ratio_"));
            let sum: f64 = bins.map(|(_, share)| share.as_f64().unwrap()).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{sum}");
            // The first of three updates is on policy, the others are not.
            for key in ["importance/ratio_one", "importance/not_one"] {
                let share = row[key].as_f64().unwrap();
                assert!(share > 0.1 && share < 0.9, "{importance} {key}: {row}");
            }
        }
    }
}

#[test]
fn an_interrupted_run_is_saved_and_goes_on_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let config = config(&["run.checkpoint_every=2"]);
    train(&config, &whole, false);
    let stop = AtomicBool::new(false);
    let finished = train::train(&config, &cut, false, &stop, &mut |event| {
        if let Event::Step(_) = event {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let finished = finished.unwrap();
    assert!(finished.report.is_none() && finished.step == 1);
    assert!(train(&config, &cut, true).report.is_some());
    assert_same_bits(&whole, &cut);
}

#[test]
fn a_checkpoint_of_another_config_is_refused_by_key() {
    let dir = tempfile::tempdir().unwrap();
    train(&config(&["grpo.steps=1"]), dir.path(), false);
    let other = config(&["grpo.steps=1", "optim.lr=0.5", "rollout.group_size=2", "threads=2"]);
    let message =
        train::train(&other, dir.path(), true, &AtomicBool::new(false), &mut |_| ()).err().unwrap().to_string();
    for key in ["optim.lr", "rollout.group_size", "another config"] {
        assert!(message.contains(key), "{message}");
    }
    assert!(!message.contains("threads"), "{message}");
}

/// A row without what an evaluation during training adds.
fn without_held_out(row: &str) -> serde_json::Value {
    let mut row: serde_json::Value = serde_json::from_str(row).unwrap();
    row.as_object_mut().unwrap().retain(|key, _| !key.starts_with("held_out/"));
    row
}

#[test]
fn evaluation_during_training_changes_no_bit_of_it_and_ends_on_the_final_tables_row() {
    let dir = tempfile::tempdir().unwrap();
    let (without, with) = (dir.path().join("without"), dir.path().join("with"));
    train(&config(&[]), &without, false);
    let report = train(&config(&["eval.every=2"]), &with, false).report.unwrap();
    for ((name, a), (_, b)) in
        bits(&without).into_iter().zip(bits(&with)).filter(|((name, _), _)| name != "metrics.jsonl")
    {
        assert!(a == b, "{name} differs with eval.every");
    }
    let rows = metrics(&with);
    for (a, b) in metrics(&without).iter().zip(&rows) {
        assert_eq!(without_held_out(a), without_held_out(b));
    }
    let rewards =
        rows.iter().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap()["held_out/reward"].clone());
    let rewards: Vec<_> = rewards.collect();
    let last = report.table.rows().into_iter().find(|row| row.buyer == "trained").unwrap().reward;
    assert!(rewards[0].is_null() && rewards[1].is_f64() && rewards[2].as_f64() == Some(last), "{rewards:?}, {last}");
}

#[test]
fn a_run_resumed_in_the_middle_has_the_rows_and_the_best_checkpoint_of_one_that_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    // Steps that throw the policy far, so that the best one is not the last; only it and the latest are kept.
    let config = config(&[
        "eval.every=1",
        "run.checkpoint_every=99",
        "run.keep=1",
        "optim.lr=0.004",
        "eval.products=4",
        "optim.warmup_steps=0",
        "grpo.steps=4",
    ]);
    train(&config, &whole, false);
    let stop = AtomicBool::new(false);
    let finished = train::train(&config, &cut, false, &stop, &mut |event| {
        if let Event::Step(row) = event {
            stop.store(row["step"] == 2, Ordering::Relaxed);
        }
    });
    assert_eq!(finished.unwrap().step, 2);
    train(&config, &cut, true);
    assert_same_bits(&whole, &cut);
    let rows: Vec<serde_json::Value> = metrics(&whole).iter().map(|row| serde_json::from_str(row).unwrap()).collect();
    let best = rows
        .iter()
        .rev()
        .max_by(|a, b| a["held_out/reward"].as_f64().unwrap().total_cmp(&b["held_out/reward"].as_f64().unwrap()));
    let step = best.unwrap()["step"].as_u64().unwrap();
    assert!(step < 4, "the best is the last: this test says nothing of what is kept");
    assert_eq!(rows[3]["held_out/best_step"], step);
    for run in [&whole, &cut] {
        let best = run.join("checkpoints/best");
        assert_eq!(fs::read_link(&best).unwrap(), Path::new(&format!("step-{step:06}")));
        assert_eq!(fs::read_dir(run.join("checkpoints")).unwrap().count(), 3, "best, what it names, the latest");
        assert!(best.join("model.safetensors").is_file());
        let page = fs::read_to_string(haggle::report::write(run).unwrap()).unwrap();
        assert!(page.contains("Held-out products, while training"));
    }
    let model = |run: &Path| fs::read(run.join("checkpoints/best/model.safetensors")).unwrap();
    assert!(model(&whole) == model(&cut));
}
