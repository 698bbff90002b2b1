//! Memory stays flat over steps. Alone in its process, for the peak is the process's.

use haggle::cli::train::train;
use haggle::config::{Config, Override};
use haggle::train::rl::Event;
use std::sync::atomic::AtomicBool;

#[test]
fn memory_stays_flat_over_steps() {
    let keys = [
        ("rollout.products_per_step", "2"),
        ("rollout.group_size", "3"),
        ("grpo.steps", "14"),
        ("grpo.micro_batch_tokens", "1024"),
        ("run.checkpoint_every", "2"),
        ("eval.products", "1"),
        ("eval.rollouts", "1"),
        ("eval.best_of", "1"),
    ];
    let set =
        |(key, value): &(&str, &str)| Override { origin: "test".into(), key: (*key).into(), value: (*value).into() };
    let config = Config::load(None, &keys.iter().map(set).collect::<Vec<_>>()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut peaks: Vec<u64> = Vec::new();
    train(&config, dir.path(), false, &AtomicBool::new(false), &mut |event| {
        if let Event::Step(row) = event {
            peaks.extend(row["time/peak_memory_bytes"].as_u64());
        }
    })
    .unwrap();
    if peaks.is_empty() {
        return eprintln!("skipped: this system does not say how much memory a process had");
    }
    // Four checkpoints are the warm-up, for the allocator learns from the first ones' buffers what to keep; then six steps
    // and three checkpoints within a mebibyte.
    let (warm, last) = (peaks[8], peaks[13]);
    assert!(last <= warm + (1 << 20), "peak memory grew from {warm} to {last} bytes: {peaks:?}");
}
