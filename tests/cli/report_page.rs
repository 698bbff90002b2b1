//! Every page that haggle writes, in headless Chromium at three widths, in light and dark: no console error, nothing loaded, no
//! finding of axe-core, no page wider than the screen. Skipped where `tools/install-browser` was not run.

use crate::support::cli::{SMALL, haggle};
use std::path::{Path, PathBuf};

/// Runs a command to its end.
fn done(dir: &Path, args: &[&str]) -> String {
    haggle(dir, args).done()
}

#[test]
fn pages_fit_every_screen_in_light_and_dark_without_errors_or_barriers() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    done(at, &[&["train", "--steps", "2", "--out", "run", "--set", "eval.every=1"], &SMALL[..]].concat());
    done(
        at,
        &[
            &["train", "--steps", "1", "--task", "menu", "--out", "sets", "--set", "task.supervised_tokens=2000"],
            &SMALL[..],
        ]
        .concat(),
    );
    let few = ["--set", "eval.products=3", "--threads", "1"];
    let sellers = ["--seller", "base", "--seller", "boulware", "--seller", "person"];
    done(at, &[&["eval", "--model", "run", "--out", "eval"], &sellers[..], &few].concat());
    done(
        at,
        &[&["eval", "--model", "run", "--model", "embedded", "--board", "--out", "board"], &sellers[..], &few].concat(),
    );
    done(at, &["compare", "run", "eval", "--html", "compare.html"]);
    done(at, &["show", "run", "--html", "lesson.html"]);
    done(
        at,
        &[
            "profile",
            "decode",
            "--steps",
            "2",
            "--batch",
            "4",
            "--prompt",
            "20",
            "--threads",
            "1",
            "--html",
            "roofline.html",
        ],
    );
    let pages = [
        "run/report.html",
        "sets/report.html",
        "eval/report.html",
        "board/board.html",
        "compare.html",
        "lesson.html",
        "roofline.html",
    ];
    let pages: Vec<PathBuf> = pages.iter().map(|page| at.join(page)).collect();
    crate::support::browser::holds("report.py", &[], &pages);
}
