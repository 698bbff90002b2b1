//! Where a command writes: found before it works, and nothing of others is replaced.

#[allow(clippy::unwrap_used)]
mod cli_common;

use cli_common::{SMALL, haggle};
use std::fs;
use std::path::Path;

const ONE: [&str; 2] = ["--set", "eval.best_of=1"];

/// Trains with small sizes into `run`.
fn train(dir: &Path, more: &[&str]) -> cli_common::Said {
    haggle(dir, &[&["train"][..], &SMALL, &ONE, &["--out", "run"], more].concat())
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn an_evaluation_finds_its_place_before_it_plays_and_replaces_nothing() {
    let dir = folder();
    let at = dir.path();
    train(at, &["--steps", "1"]).done();
    let all = |below: &str| -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(at.join(below)).expect("reads").map(|entry| entry.expect("reads").path());
        let mut files: Vec<_> =
            entries.filter(|p| p.is_file()).map(|p| (p.clone(), fs::read(p).expect("reads"))).collect();
        files.sort();
        files
    };
    let eval = |out: &str| {
        let args = ["eval", "--model", "run", "--seller", "boulware", "--rollouts", "1", "--set", "eval.products=1"];
        haggle(at, &[&args[..], &["--out", out]].concat())
    };
    let before = all("run");
    eval("run").refused(3, &["run", "holds a training run already", "--out"]);
    eval("run/checkpoints/step-000001").refused(3, &["holds a model already"]);
    eval("run/config.toml/x").refused(3, &["cannot be made", "name another place"]);
    eval("/proc/nope").refused(3, &["/proc/nope", "cannot be made"]);
    assert_eq!(all("run"), before);
    eval("run/eval").done();
    let first = all("run/eval");
    eval("run/eval").refused(3, &["holds an evaluation already (`summary.json`)"]);
    assert_eq!((all("run/eval"), all("run")), (first, before));
    // A run that has not ended yet keeps its place as well.
    fs::create_dir(at.join("young")).expect("makes");
    fs::write(at.join("young/config.toml"), "seed = 1\n").expect("writes");
    eval("young").refused(3, &["holds a training run already (`config.toml`)"]);
}

#[test]
fn other_commands_find_their_place_before_they_work() {
    let dir = folder();
    let at = dir.path();
    haggle(at, &["profile", "decode", "--trace", "/proc/nope/t.json"])
        .refused(3, &["/proc/nope/t.json", "cannot write"]);
    haggle(at, &["profile", "decode", "--html", "."]).refused(3, &["cannot write"]);
    haggle(at, &["init", "--task", "menu", "--out", "/proc/nope"]).refused(3, &["/proc/nope", "cannot be made"]);
    haggle(at, &["init", "--out", "/proc/nope"]).refused(3, &["/proc/nope", "cannot be made"]);
    haggle(at, &["train", "--task", "menu", "--out", "/proc/nope"]).refused(3, &["/proc/nope", "cannot make"]);
    assert_eq!(fs::read_dir(at).expect("reads").count(), 0);
}
