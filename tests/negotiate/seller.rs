//! Training and evaluation against a seller behind a server, as a user runs them.

use crate::chat_server::{Answer, Asked, ChatServer, fails, stubborn};
use crate::support::cli::{SMALL, Said, command, said};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const KEY: &str = "sk-test-never-seen-0123456789";

/// Two small steps against a server, quick to give up.
const QUICK: [&str; 14] = [
    "--steps",
    "2",
    "--set",
    "eval.best_of=1",
    "--set",
    "seller.backoff_s=0.01",
    "--set",
    "seller.cooling_s=0.05",
    "--set",
    "seller.coolings=1",
    "--set",
    "seller.retries=1",
    "--set",
    "seller.failures=3",
];

/// Runs `haggle args` with a key in the environment, and no proxy.
fn haggle(dir: &Path, args: &[&str]) -> Said {
    let mut command = command(dir, args);
    command.env("OPENAI_API_KEY", KEY);
    for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy).env_remove(proxy.to_uppercase());
    }
    said(command, "")
}

fn train(dir: &Path, url: &str, more: &[&str]) -> Said {
    haggle(dir, &[&["train"][..], &SMALL, &QUICK, &["--seller", url, "--out", "run"], more].concat())
}

/// A stubborn seller for whoever brings the key.
fn with_key(asked: &Asked) -> Answer {
    match asked.key.as_deref() == Some(&format!("Bearer {KEY}")) {
        true => stubborn(asked),
        false => fails(401, &format!("Incorrect API key provided: {KEY}.")),
    }
}

fn lines(file: &Path) -> Vec<Value> {
    std::fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The rows of a run without what was measured.
fn rows(run: &Path) -> Vec<Value> {
    let mut rows = lines(&run.join("metrics.jsonl"));
    rows.iter_mut().for_each(|row| row.as_object_mut().unwrap().retain(|key, _| !key.starts_with("time/")));
    rows
}

/// Every file below a folder that holds a text.
fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if std::fs::read(&path).unwrap().windows(text.len()).any(|part| part == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn a_run_against_a_server_trains_and_its_key_is_in_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (at, run) = (dir.path(), dir.path().join("run"));
    let server = ChatServer::new(with_key);
    let done = train(at, &server.url, &[]);
    assert!(!done.err.contains(KEY) && !done.out.contains(KEY), "{done:?}");
    done.done();
    for (i, row) in lines(&run.join("metrics.jsonl")).iter().enumerate() {
        assert_eq!((&row["step"], &row["rollout/void"]), (&(i as u64 + 1).into(), &0.into()));
        assert!(row["time/seller_requests"].as_u64().unwrap() >= 4 && row["time/seller_failures"] == 0, "{row}");
        assert!(row["rollout/seller_tokens"].as_u64().unwrap() > 0 && row["reward/mean"].is_f64());
    }
    let said = lines(&run.join("episodes.jsonl"));
    let seller =
        |episode: &Value| episode["turns"].as_array().unwrap().iter().any(|turn| turn["talk"] == "I cannot do that.");
    assert!(said.len() == 8 && said.iter().any(seller), "the seller's replies are recorded");
    assert_eq!(files_with(at, KEY), [""; 0]);
    assert!(!files_with(at, &server.url).is_empty(), "the address is kept");
    // What was trained meets a server too; scripts need none.
    let eval = |more: &[&str]| haggle(at, &[&["eval", "--model", "run"][..], more].concat());
    let other = ChatServer::new(with_key);
    assert!(eval(&["--seller", &other.url, "--out", "seen"]).done().contains("trained"));
    assert!(!other.turns().is_empty() && !at.join("seen/void.jsonl").exists());
    let before = server.turns().len();
    eval(&["--seller", "boulware"]).done();
    assert_eq!(server.turns().len(), before);
    eval(&["--seller", "nobody"]).refused(2, &["--seller nobody", "boulware", "http://host:8000/v1"]);
    assert_eq!(files_with(at, KEY), [""; 0]);
}

#[test]
fn a_run_whose_server_is_lost_stops_saved_and_goes_on_at_another_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let whole = ChatServer::new(with_key);
    train(at, &whole.url, &[]).done();
    std::fs::rename(at.join("run"), at.join("whole")).unwrap();
    let alive = Arc::new(AtomicBool::new(true));
    let heart = alive.clone();
    let (run, metrics) = (at.join("run"), at.join("run/metrics.jsonl"));
    let dying = ChatServer::new(move |asked| {
        // It dies in the second step.
        let rows = std::fs::read_to_string(&metrics).unwrap_or_default();
        heart.fetch_and(!rows.contains('\n'), Ordering::SeqCst);
        if heart.load(Ordering::SeqCst) { with_key(asked) } else { fails(502, "nobody is home") }
    });
    let lost = train(at, &dying.url, &[]);
    assert!(!alive.load(Ordering::SeqCst) && lost.code == 5, "{lost:?}");
    let last = lost.err.trim_end().lines().last().unwrap();
    for part in [
        "haggle: the seller at http://127.0.0.1",
        "is lost: HTTP 502 (nobody is home)",
        "saved as step-000001",
        "--resume --out run",
    ] {
        assert!(last.contains(part), "want {part} in {last}");
    }
    assert_eq!(rows(&run).len(), 1, "nothing of the second step");
    assert_eq!(lines(&run.join("episodes.jsonl")).len(), 4);
    // Another server with the same model goes on.
    let other = ChatServer::new(with_key);
    haggle(at, &["train", "--resume", "--out", "run", "--seller", &other.url]).done();
    assert_eq!(rows(&run), rows(&at.join("whole")));
    assert_eq!(
        std::fs::read(run.join("episodes.jsonl")).unwrap(),
        std::fs::read(at.join("whole/episodes.jsonl")).unwrap()
    );
    assert_eq!(files_with(at, KEY), [""; 0]);
    // One with another model does not.
    let refused =
        haggle(at, &["train", "--resume", "--out", "run", "--seller", &other.url, "--set", "seller.model=other"]);
    assert!(refused.code == 2 && refused.err.contains("seller.model"), "{refused:?}");
}

#[test]
fn void_episodes_earn_nothing_teach_nothing_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (at, run) = (dir.path(), dir.path().join("run"));
    // One turn in four fails however often it is asked for.
    let server = ChatServer::new(|asked| match asked.body["seed"].as_u64().unwrap() % 4 == 0 && !asked.probes() {
        true => fails(500, "boom"),
        false => stubborn(asked),
    });
    let more = ["--set", "rollout.products_per_step=4", "--set", "rollout.group_size=3", "--set", "seller.failures=99"];
    let done = train(at, &server.url, &more);
    assert!(done.err.contains("warning: the seller's server left") && done.code == 0, "{done:?}");
    let episodes = lines(&run.join("episodes.jsonl"));
    let (mut alone, mut all_void) = (0, 0);
    for row in lines(&run.join("metrics.jsonl")) {
        let own: Vec<&Value> = episodes.iter().filter(|e| e["step"] == row["step"]).collect();
        let void: Vec<&&Value> = own.iter().filter(|e| !e["void"].is_null()).collect();
        assert_eq!(row["rollout/void"], void.len());
        all_void += void.len();
        let rewards: Vec<f64> = own.iter().filter_map(|e| e["reward"].as_f64()).collect();
        assert_eq!(rewards.len() + void.len(), 12);
        let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
        assert!((row["reward/mean"].as_f64().unwrap() - mean).abs() < 1e-12, "{row}");
        for e in void {
            assert!(
                e["void"].as_str().unwrap().contains("HTTP 500 (boom)")
                    && e["reward"].is_null()
                    && e["outcome"].is_null()
            );
            assert_eq!(e["advantage"], 0.0);
        }
        let mut counted = 0;
        for group in own.chunks(3) {
            let left: Vec<&&Value> = group.iter().filter(|e| e["void"].is_null()).collect();
            let number = |e: &Value, key: &str| e[key].as_f64().unwrap();
            let mean = left.iter().map(|e| number(e, "reward")).sum::<f64>() / left.len() as f64;
            for e in &left {
                let want = if left.len() < 2 { 0.0 } else { number(e, "reward") - mean };
                assert!((number(e, "advantage") - want).abs() < 1e-6, "{e}");
            }
            alone += usize::from(left.len() < 2);
            counted += if left.len() < 2 { 0 } else { left.len() };
        }
        assert_eq!(row["rollout/episodes"], counted);
    }
    assert!(all_void > 3 && alone > 0, "{all_void} void, {alone} groups of fewer than two: change the seed");
    // In evaluation: no row counts them.
    let eval = haggle(
        at,
        &["eval", "--model", "run", "--out", "seen", "--set", "eval.products=12", "--set", "eval.rollouts=2"],
    );
    assert!(eval.code == 0 && eval.err.contains("are void and in no row"), "{eval:?}");
    let (void, games) = (lines(&at.join("seen/void.jsonl")), lines(&at.join("seen/games.jsonl")));
    assert!(!void.is_empty() && void.len() + games.len() == 12 * 2 * 2 + 12 * 2, "{} {}", void.len(), games.len());
    assert!(void.iter().all(|game| game["why"].as_str().unwrap().contains("HTTP 500")));
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(at.join("seen/summary.json")).unwrap()).unwrap();
    let n: u64 = rows
        .iter()
        .filter(|row| row["scenario"] == "all" && row["buyer"] != "best_of_1")
        .map(|row| row["n"].as_u64().unwrap())
        .sum();
    assert_eq!(n as usize, games.len());
}

#[test]
fn what_cannot_be_played_is_refused_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let server = ChatServer::new(|asked| {
        fails(401, &format!("Incorrect API key provided: {}.\nSee our site.", asked.key.clone().unwrap()))
    });
    train(at, &server.url, &["--set", "seller.model=big"]).refused(2, &["HTTP 401", "***", "OPENAI_API_KEY"]);
    assert!(!at.join("run").exists(), "nothing was started");
    haggle(at, &["train", "--dry-run", "--seller", &server.url]).refused(2, &["HTTP 401"]);
    let good = ChatServer::new(with_key);
    let told = haggle(at, &["train", "--dry-run", "--seller", &good.url]).done();
    assert!(told.contains(&format!("tiny-seller at {}, which answers", good.url)), "{told}");
    for (address, says) in [
        ("http://me:secret@host/v1", "seller.key_env"),
        ("http:///v1", "names no host"),
        ("https://host/v1?key=1", "more than a host and a path"),
    ] {
        train(at, address, &[]).refused(2, &["model.seller", says]);
    }
    train(at, &good.url, &["--task", "menu"]).refused(2, &["model.seller", "plays the game alone"]);
    train(at, &good.url, &["--set", "seller.key_env=sk-secret"]).refused(2, &["seller.key_env", "is no name"]);
    train(at, "http://127.0.0.1:9/v1", &[]).refused(5, &["the seller at http://127.0.0.1:9/v1 is lost"]);
    // `self` is another word for `base`.
    let text = haggle(at, &["config", "--set", "model.seller=self", "--bare"]).done();
    assert!(text.contains("seller = \"base\""), "{text}");
}
