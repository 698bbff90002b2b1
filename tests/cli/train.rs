//! A short run through the binary: every file, the same rows everywhere, Ctrl-C and resume, eval, chat, report.

use crate::support::cli::{SMALL, command, haggle, haggle_with, write_products};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

fn train(dir: &Path, more: &[&str]) -> crate::support::cli::Said {
    haggle(dir, &[&["train"][..], &SMALL, more].concat())
}

/// One run that the tests share: two steps on products of our own.
fn shared() -> &'static Path {
    static RUN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, run) = RUN.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder");
        write_products(&dir.path().join("p"));
        let out = train(dir.path(), &["--steps", "2", "--products", "p", "--out", "run"]).done();
        assert!(out.contains("report") && out.contains("run/report.html"), "{out}");
        for word in ["untrained", "best_of_8", "og_narrator", "trained", "±"] {
            assert!(out.contains(word), "{word} is not in: {out}");
        }
        let run = dir.path().join("run");
        (dir, run)
    });
    run
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("reads")).expect("JSON")
}

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("reads");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

const ROW_KEYS: [&str; 11] = [
    "buyer",
    "seller",
    "scenario",
    "n",
    "reward",
    "reward_ci95",
    "deal_rate",
    "bargained_ratio",
    "first_offer_ratio",
    "overshoot_rate",
    "format_error_rate",
];

fn assert_is_the_table(table: &Value, model: &str) {
    let table = table.as_array().expect("a list");
    for row in table {
        for key in ROW_KEYS {
            assert!(row.get(key).is_some(), "{key} is not in {row}");
        }
    }
    for buyer in ["untrained", "best_of_8", "og_narrator", model] {
        for scenario in ["all", "mi", "ci"] {
            let is = |row: &&Value| row["buyer"] == buyer && row["scenario"] == scenario;
            assert_eq!(table.iter().filter(is).count(), 1, "{buyer} {scenario}");
        }
    }
}

#[test]
fn a_run_leaves_every_file() {
    let run = shared();
    assert_is_the_table(&json(&run.join("summary.json")), "trained");
    let metrics = rows(&run.join("metrics.jsonl"));
    assert_eq!(metrics.iter().map(|row| row["step"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
    for row in &metrics {
        assert_eq!(row["rollout/logprob_max_abs_diff"], 0.0, "{row}");
        for key in ["reward/mean", "deal_rate", "grad_norm", "time/rollout_s", "time/backward_s", "time/step_s"] {
            assert!(row[key].is_number(), "{key} in {row}");
        }
    }
    assert_eq!(rows(&run.join("episodes.jsonl")).len(), 8);
    assert!(!rows(&run.join("samples.jsonl")).is_empty());
    for file in ["config.toml", "differences.json", "curve.svg", "latest"] {
        assert!(fs::metadata(run.join(file)).is_ok_and(|m| m.len() > 0), "{file}");
    }
    let html = fs::read_to_string(run.join("report.html")).expect("reads");
    assert!(html.contains("<svg") && html.contains("before and after training"));
    assert_eq!(fs::read_dir(run.join("tensorboard")).expect("reads").count(), 1);
    let latest = run.join("checkpoints").join(fs::read_to_string(run.join("latest")).expect("reads").trim());
    for file in
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    {
        assert!(latest.join(file).is_file(), "{file}");
    }
}

#[test]
fn the_final_table_follows_from_the_games() {
    let run = shared();
    let games = rows(&run.join("games.jsonl"));
    let figure = |game: &Value, key: &str| game[key].as_f64().unwrap();
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    for row in json(&run.join("summary.json")).as_array().unwrap() {
        let (buyer, scenario) = (row["buyer"].as_str().unwrap(), row["scenario"].as_str().unwrap());
        let best = buyer.strip_prefix("best_of_").map(|n| n.parse::<u64>().unwrap());
        let of = if best.is_some() { "untrained" } else { buyer };
        let mine = |g: &&Value| g["buyer"] == of && (scenario == "all" || g["scenario"] == scenario);
        let mine: Vec<&Value> = games.iter().filter(mine).collect();
        let rewards: Vec<f64> = match best {
            None => mine.iter().filter(|g| g["counts"] == true).map(|g| figure(g, "reward")).collect(),
            Some(n) => {
                let mut products: Vec<&str> = mine.iter().map(|g| g["product"].as_str().unwrap()).collect();
                products.dedup();
                let best = |product: &&str| {
                    let tried = mine.iter().filter(|g| g["product"] == *product && g["rollout"].as_u64().unwrap() < n);
                    tried.map(|g| figure(g, "reward")).fold(f64::MIN, f64::max)
                };
                products.iter().map(best).collect()
            }
        };
        assert_eq!(row["n"], rewards.len(), "{buyer} {scenario}");
        if rewards.is_empty() {
            let figures = row.as_object().unwrap().iter().filter(|(_, figure)| !figure.is_string());
            assert!(figures.clone().all(|(key, figure)| key == "n" || figure.is_null()), "nothing is known: {row}");
            continue;
        }
        assert!((mean(&rewards) - figure(row, "reward")).abs() < 1e-12, "{row}");
        let products = rewards.len() as f64 / if best.is_some() { 1.0 } else { 2.0 };
        assert_eq!(row["reward_ci95"].is_null(), products < 2.0, "{row}");
    }
}

#[test]
fn report_is_rebuilt_from_the_files() {
    let run = shared();
    let page = run.join("report.html");
    let before = fs::read(&page).expect("reads");
    let said = haggle(run, &["report", run.to_str().expect("a path")]).done();
    assert_eq!(said.trim(), page.to_str().expect("a path"));
    assert_eq!(fs::read(&page).expect("reads"), before);
}

#[test]
fn resume_refuses_another_config_by_key() {
    let run = shared();
    let said = haggle(run, &["train", "--resume", "--out", run.to_str().expect("a path"), "--set", "grpo.kl=0.5"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("another config") && said.err.contains("grpo.kl: 0.5, not 0.0"), "{}", said.err);
}

#[test]
fn eval_prints_the_rows_of_the_table() {
    let run = shared();
    let parent = run.parent().expect("a parent");
    let args = ["eval", "--model", "run", "--rollouts", "1", "--seller", "boulware", "--json", "--out", "e"];
    let printed: Value = serde_json::from_str(&haggle(parent, &args).done()).expect("JSON");
    assert_is_the_table(&printed["rows"], "run");
    assert!(printed["rows"].as_array().expect("a list").iter().all(|row| row["seller"] == "boulware"));
    assert_eq!(json(&parent.join("e/summary.json")), printed["rows"]);
    assert_eq!(json(&parent.join("e/differences.json")), printed["differences"]);
}

#[test]
fn a_person_sells_and_buys_from_a_pipe() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = haggle_with(dir.path(), &["chat", "--as", "buyer"], "hello\noffer 999999\noffer 0.01\nquit\n").done();
    for part in ["Your budget: $", "(kept for your next action", "above your budget"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert!(!said.contains("thinks:"), "{said}");
    let model = shared().to_str().expect("a path");
    let said = haggle_with(
        dir.path(),
        &["chat", "--model", model, "--products", &format!("{model}/../p"), "--json"],
        "quit\n",
    );
    let game: Value = serde_json::from_str(&said.done()).expect("JSON");
    assert!(game["turns"].as_array().is_some_and(|turns| turns[0]["side"] == "buyer"), "{game}");
}

#[test]
fn dry_run_starts_nothing_and_says_what_a_run_would_be() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = train(dir.path(), &["--dry-run"]).done();
    let answer: Vec<&str> = said.lines().take(2).collect();
    assert!(answer[0].starts_with("fits ") && answer[0].contains("yes: "), "{said}");
    assert!(
        answer[1].starts_with("time ") && answer[1].contains("about ") && answer[1].contains("threads 1"),
        "{said}"
    );
    for part in ["parameters", "GFLOP a step", "Nothing was started"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    let all = train(dir.path(), &["--dry-run", "--verbose"]).done();
    assert!(all.contains("products_per_step = 2") && all.contains("total"), "{all}");
    train(dir.path(), &["--dry-run", "--set", "rollout.group_size=90000"]).refused(4, &["needs ", "it fits with "]);
    assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 0);
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_the_run_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let args = [&["train"][..], &SMALL, &["--steps", "4", "--out", "run", "--set", "eval.best_of=1"]].concat();
    let mut child = command(dir.path(), &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let metrics = dir.path().join("run/metrics.jsonl");
    let patience = Instant::now();
    while fs::metadata(&metrics).map_or(0, |m| m.len()) == 0 {
        assert!(child.try_wait().expect("lives").is_none(), "the run ended before its first step");
        assert!(patience.elapsed() < Duration::from_secs(300), "no step within five minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let output = child.wait_with_output().expect("ends");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("go on with: haggle train --resume --out run"), "{err}");
    let saved = rows(&metrics).len();
    assert!((1..4).contains(&saved), "{saved} steps");

    haggle(dir.path(), &["train", "--resume", "--out", "run"]).done();
    let steps: Vec<_> = rows(&metrics).iter().map(|row| row["step"].as_u64()).collect();
    assert_eq!(steps, [Some(1), Some(2), Some(3), Some(4)]);
    assert!(json(&dir.path().join("run/summary.json")).as_array().is_some_and(|table| table.len() == 12));
}
