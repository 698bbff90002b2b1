//! Output that cannot be written is neither silent nor fatal.

use crate::support::cli::{SMALL, command, write_products};
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::Stdio;

/// A run of seconds that is not saved of itself.
const RARELY: [&str; 2] = ["--set", "run.checkpoint_every=100"];

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

fn rows(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default().lines().count()
}

#[test]
fn a_run_goes_on_when_nobody_takes_its_notes() {
    let dir = tempfile::tempdir().unwrap();
    write_products(&dir.path().join("p"));
    let args = |out: &'static str| {
        [&["train"][..], &SMALL, &RARELY, &["--steps", "3", "--products", "p", "--out", out]].concat()
    };
    // The reader goes away at once: `haggle train 2>&1 | head -0`.
    let mut child = command(dir.path(), &args("gone"));
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // The disk of the log is full.
    let mut child = command(dir.path(), &args("full"));
    let child = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full());
    assert_eq!(child.status().unwrap().code(), Some(0));
    for run in ["gone", "full"] {
        let run = dir.path().join(run);
        assert_eq!(rows(&run), 3);
        assert!(run.join("summary.json").is_file() && run.join("checkpoints/step-000003").is_dir());
    }
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["config"][..], &["--help"], &["train", "--list-credit"], &["doctor", "--json"]] {
        let output = command(dir.path(), args).stdin(Stdio::null()).stdout(full()).stderr(Stdio::piped()).output();
        let output = output.unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{args:?}: {err}");
        assert!(err.starts_with("haggle: stdout: cannot be written: ") && err.lines().count() == 1, "{args:?}: {err}");
        // A reader that has read enough is no error.
        let mut child = command(dir.path(), args);
        let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
    }
}

#[test]
fn text_of_others_does_not_move_the_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let record = |i: usize| {
        serde_json::json!({
            "title": format!("Book {i} \u{1b}]0;owned\u{7}\u{1b}[2J"), "description": "\u{1b}[31mred", "features": "",
            "list_price": "$20.00", "highest_price": "$20.00", "lowest_price": "$9.50", "average_price": "$15.00",
            "category": "books", "current_price": "$16.00",
        })
    };
    fs::create_dir(dir.path().join("p")).unwrap();
    let all: Vec<_> = (0..28).map(record).collect();
    fs::write(dir.path().join("p/books.json"), serde_json::to_string(&all).unwrap()).unwrap();
    let said = crate::support::cli::haggle_with(dir.path(), &["chat", "--products", "p"], "quit\n");
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("Book") && said.out.contains("\\u{1b}]0;owned"), "{said:?}");
    assert!(!said.out.contains('\u{1b}') && !said.out.contains('\u{7}'), "{said:?}");
}
