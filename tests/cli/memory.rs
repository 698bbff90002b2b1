//! Memory of every command that allocates: it plans before it begins, and what does not fit is one line and leaves nothing.

use crate::support::cli::{Said, command, said, write_products};
use std::fs;
use std::path::Path;

/// A card of so few MiB that no model with its buffers has room.
const CARD: (&str, &str) = ("HAGGLE_EMU_MIB", "2");

/// Every command that allocates, too large for the card; what it would write is `out`.
const COMMANDS: [(&str, &str); 19] = [
    ("train", "train --out out"),
    ("train, seller of its own", "train --seller embedded --out out"),
    ("train, an adapter", "train --lora rank=4 --out out"),
    ("train, demonstrations first", "train --task menu --out out"),
    ("train, evaluated on the way", "train --set eval.every=1 --out out"),
    ("train, dry", "train --dry-run --out out"),
    ("eval", "eval --model embedded --out out"),
    ("eval, guarded", "eval --model embedded --guarded --out out"),
    ("eval, a board", "eval --model embedded --board --seller all --out out"),
    ("chat", "chat --model embedded"),
    ("chat, no game", "chat --model embedded --free"),
    ("generate", "generate --model embedded --prompt a"),
    ("serve", "serve --model embedded --port 0 --state out"),
    ("score", "score --model embedded --input ids.jsonl"),
    ("init", "init --out out"),
    ("init, supervised", "init --supervised --out out"),
    ("init, a task", "init --task menu --out out"),
    ("sft", "sft --model embedded --data talks.jsonl --out out"),
    ("profile", "profile decode --batch 64 --trace out"),
];

/// Those of `profile` beside its decode: each has a plan of its own.
const PROFILED: [&str; 3] = [
    "profile train --html out",
    "profile prefill --batch 64",
    "profile decode --shape qwen3-0.6b --batch 1 --html out",
];

/// Runs a command on the card.
fn on_the_card(dir: &Path, line: &str) -> Said {
    let mut args: Vec<&str> = line.split(' ').collect();
    args.extend(["--device", "emu", "--threads", "1"]);
    let mut command = command(dir, &args);
    command.env(CARD.0, CARD.1);
    said(command, "")
}

/// A folder with inputs for all of them, and the names in it.
fn folder() -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    write_products(&dir.path().join("products"));
    fs::write(dir.path().join("ids.jsonl"), "{\"ids\": [1, 2, 3]}\n").unwrap();
    let talk = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    fs::write(dir.path().join("talks.jsonl"), format!("{talk}\n").repeat(3)).unwrap();
    let names = names(dir.path());
    (dir, names)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let (dir, before) = folder();
    for line in COMMANDS.iter().map(|(_, line)| *line).chain(PROFILED) {
        println!("haggle {line}");
        let said = on_the_card(dir.path(), line);
        said.refused(4, &["device emu: needs ", " and ", " of 2.0 MiB are free ("]);
        assert_eq!(names(dir.path()), before, "haggle {line} has left something");
    }
}

#[test]
fn a_refusal_of_a_commands_own_sizes_names_the_options_that_make_them() {
    let (dir, _) = folder();
    for (line, option) in [
        ("profile decode --batch 64", "--batch"),
        ("score --model embedded --input ids.jsonl", "shorter sequences"),
        ("init --out out", "--micro-tokens"),
        ("sft --model embedded --data talks.jsonl --out out", "--max-tokens"),
    ] {
        on_the_card(dir.path(), line).refused(4, &[option]);
    }
    // What an op takes is known where it is called: refused there, before it is taken.
    let kernel = "profile kernel gemm_nt --shape qwen3-8b";
    on_the_card(dir.path(), kernel).refused(4, &["needs", "for one tensor", "of 2.0 MiB are free", "--shape"]);
    let wide = command(dir.path(), &["profile", "decode", "--batch", "1000000000000"]);
    said(wide, "").refused(2, &["--batch", "1048576"]);
}

#[test]
fn an_output_that_cannot_be_written_is_found_before_anything_is_computed() {
    let (dir, _) = folder();
    fs::write(dir.path().join("file"), "mine").unwrap();
    for line in [
        "train --out file/x",
        "eval --model embedded --out file/x",
        "init --out file/x",
        "init --task menu --out file/x",
        "sft --model embedded --data talks.jsonl --out file/x",
        "sft --generate 3 --write file/x",
        "profile train --trace file/x",
        "profile decode --html file/x",
        "serve --model embedded --port 0 --state file/x",
    ] {
        println!("haggle {line}");
        let args: Vec<&str> = line.split(' ').chain(["--threads", "1"]).collect();
        said(command(dir.path(), &args), "").refused(3, &["file"]);
        assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "mine");
    }
}
