//! Where a command writes: found before it works, and nothing of others is replaced.

use crate::support::cli::{SMALL, command, haggle};
use std::fs;
use std::path::Path;
use std::process::Stdio;

const ONE: [&str; 2] = ["--set", "eval.best_of=1"];

/// Trains with small sizes into `run`.
fn train(dir: &Path, more: &[&str]) -> crate::support::cli::Said {
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

#[test]
fn many_runs_that_start_at_once_each_get_a_directory_and_a_refused_one_leaves_none() {
    let dir = folder();
    let at = dir.path();
    haggle(at, &["train", "--products", "nowhere"]).refused(3, &["nowhere"]);
    assert_eq!(fs::read_dir(at).expect("reads").count(), 0);
    let args = [&["train"][..], &SMALL, &ONE, &["--steps", "1"]].concat();
    let start = |_| command(at, &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let children: Vec<_> = (0..4).map(start).collect();
    for child in children {
        let output = child.wait_with_output().expect("ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for n in 1..=4 {
        assert!(at.join(format!("runs/00{n}/summary.json")).is_file(), "{n}");
    }
    haggle(at, &["train", "--products", "nowhere"]).refused(3, &["nowhere"]);
    assert!(!at.join("runs/005").exists());
}

#[test]
fn a_run_that_is_left_before_it_began_gives_its_directory_back() {
    let dir = folder();
    let model = dir.path().join("m");
    fs::create_dir(&model).expect("makes");
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny")).expect("reads") {
        let path = entry.expect("reads").path();
        if path.is_file() && !path.ends_with("tokenizer.json") {
            fs::copy(&path, model.join(path.file_name().expect("a name"))).expect("copies");
        }
    }
    // Nobody writes into it: the run waits there, its directory claimed.
    let pipe = std::process::Command::new("mkfifo").arg(model.join("tokenizer.json")).status();
    assert!(pipe.expect("runs").success());
    let args = ["train", "--model", "m"];
    let mut child = command(dir.path(), &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let patience = std::time::Instant::now();
    while !dir.path().join("runs/001").is_dir() {
        assert!(
            child.try_wait().expect("lives").is_none() && patience.elapsed().as_secs() < 300,
            "claims no directory"
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    // The handler of signals stands soon after.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(
        std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("runs").success()
    );
    let output = child.wait_with_output().expect("ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(130) && said.contains("nothing was written"), "{said}");
    assert!(!dir.path().join("runs").exists());
}

/// A library that answers as a file system without this does, for the run of one command.
#[cfg(target_os = "linux")]
fn without(dir: &Path, code: &str) -> Option<std::path::PathBuf> {
    let (source, library) = (dir.join("missing.c"), dir.join("missing.so"));
    fs::write(&source, code).expect("writes");
    let compiled =
        std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    compiled.is_ok_and(|status| status.success()).then_some(library)
}

#[cfg(target_os = "linux")]
#[test]
fn file_systems_without_locks_or_directory_syncs_get_a_warning_and_a_run() {
    let dir = folder();
    let flock = |errno: &str| {
        format!("#include <errno.h>\nint flock(int fd, int op) {{ (void)fd; (void)op; errno = {errno}; return -1; }}\n")
    };
    let fsync = |errno: &str| {
        format!(
            "#define _GNU_SOURCE\n#include <errno.h>\n#include <sys/stat.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
             int fsync(int fd) {{ struct stat s; if (!fstat(fd, &s) && S_ISDIR(s.st_mode)) {{ errno = {errno}; return -1; }}\n\
             return syscall(SYS_fsync, fd); }}\n"
        )
    };
    let run = |name: &str, library: &Path, more: &[&str]| {
        let args = [&["train"][..], &SMALL, &ONE, &["--steps", "1", "--out", name], more].concat();
        let output = command(dir.path(), &args).env("LD_PRELOAD", library).output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (i, errno) in ["ENOLCK", "ENOSYS", "ENOTSUP", "EINVAL"].into_iter().enumerate() {
        let name = format!("lock{i}");
        let Some(library) = without(dir.path(), &flock(errno)) else { return eprintln!("skipped: no C compiler") };
        let (code, said) = run(&name, &library, &[]);
        assert_eq!((code, said.matches("this file system has no locks").count()), (Some(0), 1), "{errno}: {said}");
        let Some(library) = without(dir.path(), &fsync(errno)) else { return eprintln!("skipped: no C compiler") };
        let (code, said) = run(&format!("sync{i}"), &library, &[]);
        assert_eq!((code, said.matches("when a directory is on disk").count()), (Some(0), 1), "{errno}: {said}");
        let (code, said) = run(&format!("sync{i}"), &library, &["--resume"]);
        assert_eq!((code, said.matches("when a directory is on disk").count()), (Some(0), 1), "{errno}: {said}");
    }
    // What has failed is no such thing.
    let Some(library) = without(dir.path(), &fsync("EIO")) else { return eprintln!("skipped: no C compiler") };
    let (code, said) = run("broken", &library, &[]);
    assert!(code == Some(3) && said.contains("cannot write to disk"), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_table_that_cannot_be_kept_is_still_shown() {
    let dir = folder();
    let code = "#include <errno.h>\nint rename(const char *a, const char *b) { (void)a; (void)b; errno = ENOSPC; return -1; }\n";
    let Some(library) = without(dir.path(), code) else { return eprintln!("skipped: no C compiler") };
    let args = ["eval", "--model", "embedded", "--seller", "boulware", "--rollouts", "1", "--out", "e"];
    let mut eval = command(dir.path(), &[&args[..], &ONE, &["--set", "eval.products=1"]].concat());
    let output = eval.env("LD_PRELOAD", library).output().expect("runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.code() == Some(3) && err.contains("e/summary.json: cannot write: No space left"), "{err}");
    assert!(out.contains("embedded") && out.contains("og_narrator"), "{out}");
}

#[cfg(target_os = "linux")]
#[test]
fn what_limits_a_process_is_what_its_plan_is_held_against() {
    let dir = folder();
    let limited = |limit: &str, more: &[&str]| {
        let words = ["train"].iter().chain(&SMALL).chain(&ONE).chain(&["--steps", "1", "--out", "run"]).chain(more);
        let mut sh = std::process::Command::new("sh");
        sh.args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh"]).arg(crate::support::cli::binary()).args(words);
        let output = sh.current_dir(dir.path()).output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (limit, named) in [("-v 300000", "RLIMIT_AS"), ("-d 100000", "RLIMIT_DATA")] {
        let (code, said) = limited(limit, &[]);
        assert!(code == Some(4) && said.lines().count() == 1 && said.contains(named), "{said}");
        assert!(said.contains("device cpu: needs ") && said.contains("are free"), "{said}");
        assert!(!dir.path().join("run").exists(), "nothing was begun");
    }
    // What fits goes through, with the setting that the refusal names.
    let (_, said) = limited("-d 270000", &["--set", "grpo.micro_batch_tokens=16384"]);
    let fits = said.split("grpo.micro_batch_tokens = ").nth(1).and_then(|rest| rest.split(' ').next());
    let fits = format!("grpo.micro_batch_tokens={}", fits.unwrap_or_else(|| panic!("names no setting: {said}")));
    let (code, said) = limited("-d 270000", &["--set", &fits]);
    assert_eq!(code, Some(0), "{said}");
}
