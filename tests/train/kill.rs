//! SIGKILL in the middle of a step, of a save, of the first moment; resumed each time: the bits of a run never killed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CONFIG: &str = "
[rollout]
products_per_step = 1
group_size = 3
[grpo]
steps = 4
micro_batch_tokens = 1024
[run]
checkpoint_every = 2
[eval]
every = 3
products = 1
rollouts = 1
best_of = 1
";

fn spawn(dir: &Path, run: &Path) -> Child {
    let config = dir.join("small.toml");
    fs::write(&config, CONFIG).unwrap();
    let mut command = Command::new(crate::support::cli::binary());
    command.arg("train").arg("--out").arg(run).args(["--threads", "1"]);
    if run.join("config.toml").exists() {
        command.arg("--resume");
    } else {
        command.arg("--config").arg(&config);
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Kills the run (SIGKILL) as soon as `when` holds; false when it ended before.
fn kill_when(dir: &Path, run: &Path, when: impl Fn() -> bool) -> bool {
    let mut child = spawn(dir, run);
    let start = Instant::now();
    while !when() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "the moment to kill never came");
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

fn rows(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

fn saving(run: &Path) -> bool {
    let entries = fs::read_dir(run.join("checkpoints"));
    entries.is_ok_and(|all| all.flatten().any(|e| e.file_name().to_string_lossy().starts_with(".unfinished-")))
}

fn computed(run: &Path) -> Vec<serde_json::Map<String, serde_json::Value>> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| haggle::run::metrics::without_times(&serde_json::from_str(line).unwrap())).collect()
}

#[test]
fn a_run_killed_at_any_moment_and_resumed_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    finish(spawn(dir.path(), &whole));
    // before its first checkpoint, in the middle of a step
    assert!(kill_when(dir.path(), &cut, || rows(&cut) == 1));
    // in the middle of the first save
    assert!(kill_when(dir.path(), &cut, || saving(&cut)));
    // in a step after the first checkpoint
    assert!(kill_when(dir.path(), &cut, || rows(&cut) == 3));
    // in a later save
    assert!(kill_when(dir.path(), &cut, || rows(&cut) == 4 && saving(&cut)));
    finish(spawn(dir.path(), &cut));
    let last = "checkpoints/step-000004";
    for name in [
        "episodes.jsonl",
        "summary.json",
        "differences.json",
        "games.jsonl",
        "samples.jsonl",
        "latest",
        &format!("{last}/model.safetensors"),
        &format!("{last}/haggle/optimizer.safetensors"),
    ] {
        assert!(fs::read(whole.join(name)).unwrap() == fs::read(cut.join(name)).unwrap(), "{name} differs");
    }
    let best = |run: &Path| fs::read_link(run.join("checkpoints/best")).unwrap();
    assert_eq!((computed(&whole), best(&whole)), (computed(&cut), best(&cut)));
    assert_eq!(computed(&whole).len(), 4);
}
