//! A person's first hour: the commands of the README, as they stand there, one after another.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The commands under a heading of the README, their remarks taken off.
fn commands(heading: &str) -> Vec<String> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = readme.split(heading).nth(1).unwrap();
    let block = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    block.lines().map(|line| line.split("  #").next().unwrap().trim().to_string()).collect()
}

/// A `haggle` on the PATH that does what it is told in seconds: smaller steps, fewer products.
fn small(at: &Path) -> std::path::PathBuf {
    let sets: Vec<&str> = crate::support::cli::SMALL.iter().copied().filter(|word| word.contains('=')).collect();
    let sets: String = sets.iter().map(|set| format!(" --set {set}")).collect();
    let script = format!(
        "#!/bin/sh\nsets='{sets} --set eval.best_of=1 --threads 1'\ncase \"$*\" in\n*--extend*) set -- train --extend 1 --out \
         runs/001 $sets ;;\ntrain*) set -- \"$@\" $sets --set grpo.steps=2 ;;\neval*) set -- \"$@\" $sets ;;\nesac\nexec '{}' \"$@\"\n",
        crate::support::cli::binary().to_string_lossy()
    );
    let folder = at.join("bin");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("haggle"), script).unwrap();
    fs::set_permissions(folder.join("haggle"), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn the_first_hour_of_the_readme_goes_through_as_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = format!("{}:{}", small(dir.path()).display(), std::env::var("PATH").unwrap());
    let all = commands("## The first hour\n");
    // The binary under test stands for what this installs.
    assert_eq!(all[0], "cargo install --path .");
    for line in &all[1..] {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env("PATH", &path).current_dir(dir.path());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        // Who asks for nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(b"offer 11\nquit\n");
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for file in ["runs/001/report.html", "runs/002/evaluation.json", "runs/003/games.jsonl", "both.html"] {
        assert!(dir.path().join(file).is_file(), "{file}");
    }
    let games = fs::read_to_string(dir.path().join("runs/003/games.jsonl")).unwrap();
    assert!(games.contains("mugs_1") && games.contains("person"), "{games}");
}
