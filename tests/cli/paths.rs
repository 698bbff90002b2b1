//! Paths as they come: any bytes, a home, relative ones, and as words that can be pasted into a shell.

#![cfg(unix)]

use crate::support::cli::{SMALL, write_products};
use haggle::config::{Config, paths::place};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// `train` with small sizes, one step, and more.
fn small(more: &[&[u8]]) -> Vec<OsString> {
    let fixed = [&["train"][..], &SMALL, &["--steps", "1", "--set", "eval.best_of=1"]].concat();
    fixed.iter().map(|word| word.as_bytes()).chain(more.iter().copied()).map(|word| os(word).into()).collect()
}

fn command<T: AsRef<OsStr>>(dir: &Path, args: &[T]) -> Command {
    let mut command = Command::new(crate::support::cli::binary());
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command
}

#[track_caller]
fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn config(run: &Path) -> Config {
    Config::load(Some(&run.join("config.toml")), &[]).unwrap()
}

fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn paths_that_are_not_utf8_are_used_kept_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    // The working directory is one too.
    let here = dir.path().join(os(b"h\xe9re"));
    fs::create_dir(&here).unwrap();
    let here = here.canonicalize().unwrap();
    write_products(&here.join(os(b"p\xff")));
    write_products(&here.join("plain"));
    done(&mut command(&here, &small(&[b"--out", b"m\xe9", b"--products", b"p\xff"])));
    done(&mut command(&here, &small(&[b"--out=run", b"--products", b"plain", b"--model", b"m\xe9"])));
    assert_eq!(names(&here), [os(b"m\xe9"), os(b"plain"), os(b"p\xff"), os(b"run")]);
    let kept = config(&here.join("run"));
    assert_eq!(place(&kept.products.path), here.join("plain"));
    assert_eq!(place(&kept.model.base), here.join(os(b"m\xe9")));
    assert_eq!(place(&kept.run.out), here.join("run"));
    assert_eq!(place(&config(&here.join(os(b"m\xe9"))).products.path), here.join(os(b"p\xff")));
    // From elsewhere, by what the run kept.
    let away = tempfile::tempdir().unwrap();
    let run = here.join(os(b"m\xe9"));
    let eval =
        [os(b"eval"), os(b"--seller=boulware"), os(b"--rollouts=1"), os(b"--set=eval.products=1"), os(b"--model")];
    done(&mut command(away.path(), &[&eval[..], &[run.as_os_str(), os(b"--out"), os(b"e\xe9")]].concat()));
    assert!(away.path().join(os(b"e\xe9/summary.json")).is_file());
    done(&mut command(away.path(), &[os(b"train"), os(b"--resume"), os(b"--out"), run.as_os_str()]));
    done(&mut command(away.path(), &[os(b"chat"), os(b"--model"), run.as_os_str(), os(b"--json")]));
    fs::write(away.path().join(os(b"i\xe9")), "{\"ids\": [1, 2]}\n").unwrap();
    done(&mut command(away.path(), &[os(b"score"), os(b"--model"), run.as_os_str(), os(b"--input"), os(b"i\xe9")]));
    let said = done(&mut command(away.path(), &[os(b"report"), run.as_os_str()])).stdout;
    assert_eq!(said, [run.join("report.html").as_os_str().as_bytes(), b"\n"].concat());
    // Machines are told it in JSON, and everything reads it back.
    let said = done(&mut command(away.path(), &[os(b"report"), run.as_os_str(), os(b"--json")])).stdout;
    let page: serde_json::Value = serde_json::from_slice(&said).unwrap();
    assert_eq!(place(page["report"].as_str().unwrap()), run.join("report.html"));
    let said = done(&mut command(&here, &small(&[b"--out", b"j\xe9", b"--json"]))).stdout;
    let told: serde_json::Value = serde_json::from_slice(&said).unwrap();
    assert_eq!(place(told["run"].as_str().unwrap()), here.join(os(b"j\xe9")));
    let set = [b"products.path=".to_vec(), here.join(os(b"p\xff")).into_os_string().into_encoded_bytes()].concat();
    let said = done(&mut command(away.path(), &[os(b"config"), os(b"--set"), os(&set)])).stdout;
    let read = Config::parse("said", &String::from_utf8(said).unwrap(), &[]).unwrap();
    assert_eq!(place(&read.products.path), here.join(os(b"p\xff")));
}

#[test]
fn what_is_wrong_with_a_path_is_named_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |args: &[&OsStr], code: i32, parts: &[&str]| {
        let output = command(dir.path(), args).env("HOME", "/none").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && said.lines().count() == 1, "{said}");
        parts.iter().for_each(|part| assert!(said.contains(part), "want `{part}` in: {said}"));
    };
    refused(&[os(b"train"), os(b"--products"), os(b"p\xe9\n")], 3, &["p\\xe9\\x0a: cannot read"]);
    refused(&[os(b"eval"), os(b"--model"), os(b"m\xe9")], 3, &["m\\xe9: no such folder"]);
    refused(&[os(b"config"), os(b"--set"), os(b"grpo.steps=\xe9")], 2, &["--set grpo.steps=\\xe9", "a whole number"]);
    refused(&[os(b"config"), os(b"--set"), os(b"model.base=~root/m")], 2, &["model.base", "write the whole path"]);
    refused(&[os(b"train"), os(b"--products=~/p")], 3, &["/none/p"]);
    refused(&[os(b"train"), os(b"--out=file://host/p")], 2, &["--out", "file:///"]);
    fs::write(dir.path().join("c.toml"), b"seed = 1\n[products]\npath = \"p\xe9\"\n").unwrap();
    refused(&[os(b"config"), os(b"--config"), os(b"c.toml")], 2, &["c.toml:3: is not UTF-8", "file:///"]);
    assert_eq!(names(dir.path()), ["c.toml"]);
}

#[test]
fn a_leading_tilde_is_the_home_in_files_sets_and_options() {
    let (home, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = home.path().canonicalize().unwrap();
    write_products(&at.join("data/p"));
    fs::write(dir.path().join("c.toml"), "[products]\npath = \"~/data/p\"\n[run]\nout = \"~/runs/a\"\n").unwrap();
    done(command(dir.path(), &small(&[b"--config", b"c.toml"])).env("HOME", &at));
    done(
        command(dir.path(), &small(&[b"--set", b"run.out=~/runs/b", b"--set", b"model.base=~/runs/a"]))
            .env("HOME", &at),
    );
    done(command(dir.path(), &small(&[b"--out=~/runs/c", b"--products=~/data/p"])).env("HOME", &at));
    assert_eq!(names(&at.join("runs")), ["a", "b", "c"]);
    assert_eq!(names(dir.path()), ["c.toml"]);
    // What is kept means the same without that home.
    assert_eq!(place(&config(&at.join("runs/a")).products.path), at.join("data/p"));
    let eval = ["eval", "--rollouts=1", "--seller=boulware", "--set=eval.products=1", "--model"]
        .map(|word| os(word.as_bytes()));
    let run = at.join("runs/a");
    done(command(dir.path(), &[&eval[..], &[run.as_os_str()]].concat()).env("HOME", "/none"));
    // A folder of that name is there by another name.
    done(command(dir.path(), &small(&[b"--out", b"./~/run"])).env("HOME", &at));
    assert!(dir.path().join("~/run/config.toml").is_file());
}

#[test]
fn a_relative_path_in_a_config_file_starts_at_the_working_directory_and_is_kept_absolute() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().canonicalize().unwrap();
    write_products(&at.join("work/data"));
    fs::create_dir(at.join("settings")).unwrap();
    fs::write(at.join("settings/c.toml"), "[products]\npath = \"data\"\n[run]\nout = \"run\"\n").unwrap();
    let work = at.join("work");
    done(&mut command(&work, &small(&[b"--config", b"../settings/c.toml"])));
    assert_eq!(names(&work), ["data", "run"]);
    let kept = config(&work.join("run"));
    assert_eq!((place(&kept.products.path), place(&kept.run.out)), (work.join("data"), work.join("run")));
    let output = command(&at, &small(&[b"--config", b"settings/c.toml"])).output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("data: cannot read"));
    // The run goes on from anywhere, and says so of itself where it was moved to.
    fs::rename(work.join("run"), at.join("moved")).unwrap();
    done(&mut command(&at, &["train", "--resume", "--out", "moved"]));
    assert_eq!(place(&config(&at.join("moved")).run.out), at.join("moved"));
    let help = done(&mut command(&at, &["train", "--help"])).stdout;
    assert!(
        String::from_utf8(help)
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .contains("start at the working directory")
    );
}

/// Stops a run after its first step and gives the command it tells.
fn told(dir: &Path, out: &[u8]) -> String {
    let mut args = small(&[b"--out", out]);
    let steps = args.iter().position(|word| word == "--steps").unwrap();
    args[steps + 1] = "400".into();
    let run = dir.join(os(out));
    let mut child = command(dir, &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let patience = Instant::now();
    while fs::metadata(run.join("metrics.jsonl")).map_or(0, |m| m.len()) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before its first step");
        assert!(patience.elapsed() < Duration::from_secs(300), "no step within five minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let said = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    said.lines().last().unwrap().split_once("go on with: ").unwrap().1.into()
}

#[test]
fn the_command_that_goes_on_can_be_pasted_into_a_shell() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(PathBuf::from(crate::support::cli::binary()), bin.join("haggle")).unwrap();
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())));
    for out in [&b"./my run"[..], b"it's $HOME `id`", b"r\xe9\n"] {
        // Behind it a key that a resume refuses: what is tried is that the shell reads the path as it is.
        let pasted = format!("{} --set seed=7", told(dir.path(), out));
        assert_eq!(pasted.lines().count(), 1, "{pasted}");
        let mut sh = Command::new("sh");
        sh.args(["-c", &pasted]).current_dir(dir.path()).env("PATH", path.as_ref().unwrap());
        let said = String::from_utf8(sh.output().unwrap().stderr).unwrap();
        assert!(
            said.contains("is a checkpoint of another config") && said.contains("seed: 7, not 1"),
            "{pasted}: {said}"
        );
    }
}
