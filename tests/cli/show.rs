//! `haggle show`: the tokens of a run's episodes as they were learned from, and what is refused.

use crate::support::cli::{SMALL, haggle};
use haggle::embedded;
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

/// A run of two steps.
fn run(dir: &Path, more: &[&str]) {
    let args = [&["train", "--out", "run", "--steps", "2", "--set", "eval.best_of=1"][..], &SMALL, more].concat();
    haggle(dir, &args).done();
}

fn lines(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("run/episodes.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn shown(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&haggle(dir, &[&["show", "--json"], args].concat()).done()).unwrap()
}

#[test]
fn ids_mask_logprobs_and_advantages_are_those_of_the_run() {
    let dir = TempDir::new().unwrap();
    run(dir.path(), &[]);
    let (all, end) = (lines(dir.path()), embedded::chat().unwrap().end());
    let mut ended = 0;
    for (i, line) in all.iter().enumerate() {
        let got = shown(dir.path(), &[&format!("run/episodes.jsonl:{}", i + 1)]);
        let tokens = got["tokens"].as_array().unwrap();
        let (ids, buyer): (Vec<_>, _) = (tokens.iter().map(|t| t["id"].clone()).collect(), &line["buyer"]);
        assert_eq!(&Value::from(ids), &buyer["ids"]);
        let taught: Vec<&Value> = tokens.iter().filter(|t| t["loss"] == 1).collect();
        let logprobs: Vec<f32> = taught.iter().map(|t| t["logprob"].as_f64().unwrap() as f32).collect();
        let want = buyer["logprobs"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap() as f32);
        assert!(logprobs.iter().copied().eq(want), "line {}", i + 1);
        let advantage = line["advantage"].as_f64().unwrap() as f32;
        assert!(taught.iter().all(|t| t["advantage"].as_f64().unwrap() as f32 == advantage));
        ended += taught.iter().filter(|t| t["id"] == end).count();
        assert!(line.get("advantages").is_none(), "nothing is stored twice");
    }
    assert!(ended > all.len(), "{ended} ends of turns carry loss in {} episodes", all.len());
    let second = shown(dir.path(), &["run", "--step", "1", "--episode", "2"]);
    assert_eq!(second, shown(dir.path(), &["run/episodes.jsonl:2"]));
    let last = lines(dir.path()).iter().position(|line| line["step"] == 2).unwrap();
    assert_eq!(shown(dir.path(), &["run"]), shown(dir.path(), &[&format!("run/episodes.jsonl:{}", last + 1)]));
    // For people: no colour where nobody sees it, and every sampled token a line.
    let text = haggle(dir.path(), &["show", "run", "--step", "1"]).done();
    assert!(!text.contains('\u{1b}') && text.contains("heard, ") && text.contains("loss 0"), "{text}");
    assert!(
        text.contains("\"<|end|>\"  ends the turn\n") && text.contains("that was sampled and carries loss"),
        "{text}"
    );
    let said = haggle(dir.path(), &["show", "run", "--html", "lesson.html"]).done();
    assert_eq!(said, "lesson.html\n");
    let page = std::fs::read_to_string(dir.path().join("lesson.html")).unwrap();
    assert!(page.contains("loss 1, logprob") && page.contains("&lt;|end|&gt;"), "{page}");

    haggle(dir.path(), &["show", "run", "--step", "9"]).refused(3, &["episodes.jsonl", "holds no episode of step 9"]);
    haggle(dir.path(), &["show", "run", "--episode", "99"]).refused(3, &["step 2 has episodes 1 to 4"]);
    haggle(dir.path(), &["show", "run/episodes.jsonl:99"]).refused(3, &["has 8 lines"]);
    haggle(dir.path(), &["show", "nowhere"]).refused(3, &["nowhere"]);
    std::fs::copy(dir.path().join("run/episodes.jsonl"), dir.path().join("e.jsonl")).unwrap();
    haggle(dir.path(), &["show", "e.jsonl"]).refused(3, &["no run directory", "--model DIR"]);
    haggle(dir.path(), &["show", "e.jsonl", "--model", "embedded"]).done();
}

#[test]
fn an_advantage_of_each_turn_is_stored_and_shown() {
    let dir = TempDir::new().unwrap();
    run(dir.path(), &["--set", "credit.latent=true"]);
    let own = |line: &Value| line["advantages"].as_array().cloned().unwrap_or_default();
    let all = lines(dir.path());
    let at = all.iter().position(|line| own(line).windows(2).any(|two| two[0] != two[1])).unwrap();
    let got = shown(dir.path(), &[&format!("run/episodes.jsonl:{}", at + 1)]);
    let taught = got["tokens"].as_array().unwrap().iter().filter(|t| t["loss"] == 1);
    let shown: Vec<f32> = taught.map(|t| t["advantage"].as_f64().unwrap() as f32).collect();
    let stored: Vec<f32> = own(&all[at]).iter().map(|a| a.as_f64().unwrap() as f32).collect();
    assert_eq!(shown, stored);
}
