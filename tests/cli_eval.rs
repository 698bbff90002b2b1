//! `haggle eval`: what it prints and keeps beside the rows.

#[allow(clippy::unwrap_used)]
mod cli_common;

use cli_common::haggle;
use serde_json::Value;

/// An evaluation of the embedded model against a script, one product.
const EVAL: [&str; 8] =
    ["eval", "--model", "embedded", "--set", "eval.products=1", "--set", "eval.best_of=1", "--protocol"];

#[test]
fn a_protocols_own_row_stands_beside_ours_and_what_differs_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = haggle(dir.path(), &[&EVAL[..], &["paper", "--seller", "boulware", "--out", "e"]].concat()).done();
    let want = ["as paper evaluates", "0.7664", "91.99 %", "0.8385", "0.10 %", "eval.seller is boulware, there base"];
    let more = ["eval.products is 1, there 0", "1 products are held out, there 128", "game.prompt_style is compact"];
    for part in want.iter().chain(&more) {
        assert!(said.contains(part), "no `{part}` in\n{}", said);
    }
    assert!(!said.contains("eval.rollouts is"), "the protocol's own setting was taken");
    let kept = std::fs::read(dir.path().join("e/protocol.json")).expect("reads");
    let kept: Value = serde_json::from_slice(&kept).expect("json");
    assert_eq!(kept["published"]["reward"], 0.7664);
    assert!(kept["differs"].as_array().is_some_and(|all| all.len() > 3), "{kept}");
}

#[test]
fn json_has_the_rows_and_the_published_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let args = [&EVAL[..], &["paper", "--seller", "boulware", "--json", "--rollouts", "2"]].concat();
    let said = haggle(dir.path(), &args).done();
    let value: Value = serde_json::from_str(&said).expect("json");
    assert_eq!((&value["beside"]["protocol"], value["rows"][0]["n"].as_u64()), (&"paper".into(), Some(2)));
    assert!(value["beside"]["differs"].to_string().contains("eval.rollouts is 2, there 4"), "{value}");
}

#[test]
fn an_unknown_protocol_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    haggle(dir.path(), &[&EVAL[..], &["papers"]].concat()).refused(2, &["--protocol papers", "use one of paper"]);
}
