//! Signals are heard in every phase, save what can be saved, and what is then said is true.

use crate::support::cli::{SMALL, command, haggle, write_products};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A run that is not saved of itself.
const RARELY: [&str; 2] = ["--set", "run.checkpoint_every=100"];

fn rows(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default().lines().count()
}

fn dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_products(&dir.path().join("p"));
    dir
}

/// Starts haggle by way of `env`, which sets what SIGHUP does whatever it does to this test.
fn start(dir: &Path, hup: &str, args: &[&str]) -> Child {
    let mut child = Command::new("env");
    child.arg(hup).arg(command(dir, args).get_program()).args(args).current_dir(dir);
    child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_for(what: &str, child: &mut Child, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(180), "{what}: waited too long");
        assert!(child.try_wait().unwrap().is_none(), "{what}: ended before");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// Sends a signal, and takes what was said within a deadline that only a deaf program misses.
fn ended(what: &str, signal: &str, mut child: Child) -> String {
    send(signal, &child);
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{what}: {signal} was not heard");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let err = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(130), "{what} {signal}: {err}");
    err
}

#[test]
fn each_saves_a_run_between_two_steps() {
    let dir = dir();
    for signal in ["-TERM", "-HUP", "-INT"] {
        let run = dir.path().join(&signal[1..]);
        let name = run.to_str().unwrap();
        let args = [&["train"][..], &SMALL, &RARELY, &["--steps", "5000", "--products", "p", "--out", name]].concat();
        let mut child = start(dir.path(), "--default-signal=HUP", &args);
        wait_for(signal, &mut child, || rows(&run) >= 2);
        let err = ended("train", signal, child);
        assert!(err.contains("saved at step") && err.contains("--resume"), "{signal}: {err}");
        // What it says is true: the saved step is the last row, and the run goes on from it.
        let saved = fs::read_to_string(run.join("latest")).unwrap();
        assert_eq!(saved.trim().rsplit('-').next().unwrap().parse::<usize>().unwrap(), rows(&run), "{signal}");
    }
}

#[test]
fn demonstrations_are_left_at_once_and_the_run_begins_again() {
    let dir = dir();
    let more = ["--task", "recommend", "--products", "p", "--out", "run", "--steps", "1"];
    let set = |tokens: &'static str| [&["train"][..], &SMALL, &more, &["--set", tokens]].concat();
    let mut child = start(dir.path(), "--default-signal=HUP", &set("task.supervised_tokens=100000000"));
    wait_for("demonstrations", &mut child, || dir.path().join("run/config.toml").exists());
    let err = ended("demonstrations", "-TERM", child);
    assert!(
        err.contains("left before the first checkpoint; from the beginning, go on with: haggle train --resume"),
        "{err}"
    );
    assert!(!dir.path().join("run/latest").exists() && !dir.path().join("run/taught").exists());
}

#[test]
fn an_evaluation_is_left_at_once_and_is_all_that_a_resume_does() {
    let dir = dir();
    let set = ["--set", "eval.rollouts=64", "--set", "eval.best_of=64", "--set", "eval.products=0"];
    let args = [&["train"][..], &SMALL, &set, &["--steps", "1", "--products", "p", "--out", "run"]].concat();
    let mut child = start(dir.path(), "--default-signal=HUP", &args);
    wait_for("evaluation", &mut child, || dir.path().join("run/latest").exists());
    let err = ended("evaluation", "-TERM", child);
    assert!(err.contains("go on with: haggle train --resume --out run"), "{err}");
    assert!(err.contains("the checkpoint step-000001 is whole") || err.contains("saved at step 1"), "{err}");
    assert!(!dir.path().join("run/summary.json").exists());
    let said = haggle(dir.path(), &["eval", "--model", "run", "--rollouts", "1", "--set", "eval.best_of=1", "--json"]);
    assert_eq!(said.code, 0, "the checkpoint that was named is whole: {said:?}");
}

#[test]
fn init_saves_the_weights_it_has() {
    let dir = dir();
    let args =
        ["init", "--preset", "tiny", "--supervised", "--out", "base", "--tokens", "1000000000", "--threads", "1"];
    let mut child = start(dir.path(), "--default-signal=HUP", &args);
    let log = dir.path().join("base/haggle/sft.jsonl");
    wait_for("init", &mut child, || fs::metadata(&log).is_ok_and(|m| m.len() > 0));
    let random = fs::read(dir.path().join("base/model.safetensors")).unwrap();
    let err = ended("init", "-TERM", child);
    assert!(err.contains("saved base after") && err.contains("of 1000000000 tokens"), "{err}");
    assert_ne!(
        fs::read(dir.path().join("base/model.safetensors")).unwrap(),
        random,
        "they are those of the last batch"
    );
    fs::write(dir.path().join("ids.jsonl"), r#"{"ids":[2,14,18]}"#).unwrap();
    haggle(dir.path(), &["score", "--model", "base", "--input", "ids.jsonl"]).done();
}

#[test]
fn what_keeps_nothing_is_left_at_once() {
    let dir = dir();
    for args in [&["profile", "train", "--steps", "1000"][..], &["eval", "--model", "embedded", "--rollouts", "64"]] {
        let child = start(dir.path(), "--default-signal=HUP", args);
        std::thread::sleep(Duration::from_millis(700));
        let err = ended(args[0], "-HUP", child);
        assert!(err.lines().last().is_some_and(|l| l.starts_with("haggle: left") || l == "haggle: stopped"), "{err}");
    }
}

#[test]
fn a_hang_up_that_is_ignored_stays_ignored() {
    let dir = dir();
    let run = dir.path().join("run");
    let args = [&["train"][..], &SMALL, &RARELY, &["--steps", "6", "--products", "p", "--out", "run"]].concat();
    let mut child = start(dir.path(), "--ignore-signal=HUP", &args);
    wait_for("nohup", &mut child, || rows(&run) >= 1);
    send("-HUP", &child);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), rows(&run)), (Some(0), 6), "{}", String::from_utf8_lossy(&output.stderr));
}
