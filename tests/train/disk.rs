//! A disk that fills during a save: the last good checkpoint stays, and the run goes on from it when there is room.

use haggle::cli::train::train;
use haggle::config::{Config, Override};
use haggle::run::checkpoint;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

/// A tmpfs that is unmounted when dropped.
struct Mounted<'a>(&'a Path);

impl Mounted<'_> {
    fn new<'a>(at: &'a Path, size: &str) -> Option<Mounted<'a>> {
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).output();
        mount.is_ok_and(|m| m.status.success()).then_some(Mounted(at))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.0).status().unwrap().success());
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

fn config() -> Config {
    let keys = [
        ("rollout.products_per_step", "2"),
        ("rollout.group_size", "2"),
        ("grpo.steps", "3"),
        ("grpo.micro_batch_tokens", "1024"),
        ("run.checkpoint_every", "1"),
        ("run.keep", "3"),
        ("eval.products", "1"),
        ("eval.rollouts", "1"),
        ("eval.best_of", "1"),
    ];
    let set =
        |(key, value): &(&str, &str)| Override { origin: "test".into(), key: (*key).into(), value: (*value).into() };
    Config::load(None, &keys.iter().map(set).collect::<Vec<_>>()).unwrap()
}

#[test]
fn a_disk_that_fills_during_a_save_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Room for one checkpoint and a half: weights and two moments of a million parameters.
    let Some(disk) = Mounted::new(dir.path(), "20m") else {
        return eprintln!("skipped: mounting a small disk needs root");
    };
    let run = dir.path().join("run");
    let never = AtomicBool::new(false);
    let message = train(&config(), &run, false, &never, &mut |_| ()).err().expect("20 MB are too few").to_string();
    assert!(message.contains("No space left"), "{message}");
    let at = checkpoint::latest(&run).unwrap().unwrap();
    assert_eq!(checkpoint::open(&at).unwrap().step, 1);
    disk.resize("200m");
    let finished = train(&config(), &run, true, &never, &mut |_| ()).unwrap();
    assert_eq!((finished.step, finished.report.is_some()), (3, true));
    let elsewhere = tempfile::tempdir().unwrap();
    let whole = elsewhere.path().join("run");
    train(&config(), &whole, false, &never, &mut |_| ()).unwrap();
    for name in ["episodes.jsonl", "summary.json", "checkpoints/step-000003/model.safetensors"] {
        assert!(std::fs::read(run.join(name)).unwrap() == std::fs::read(whole.join(name)).unwrap(), "{name} differs");
    }
}
