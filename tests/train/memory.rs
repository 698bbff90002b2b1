//! Memory stays flat over steps. In a process of its own, for the peak is the process's: `haggle train`.

use crate::support::cli::haggle;

#[test]
fn memory_stays_flat_over_steps() {
    let keys = [
        "rollout.products_per_step=2",
        "rollout.group_size=3",
        "grpo.micro_batch_tokens=1024",
        "run.checkpoint_every=2",
        "eval.products=1",
        "eval.rollouts=1",
        "eval.best_of=1",
    ];
    let dir = tempfile::tempdir().unwrap();
    let set = keys.iter().flat_map(|key| ["--set", key]);
    let args: Vec<&str> = ["train", "--steps", "14", "--out", "run"].into_iter().chain(set).collect();
    haggle(dir.path(), &args).done();
    let rows = std::fs::read_to_string(dir.path().join("run/metrics.jsonl")).unwrap();
    let peak = |row: &str| serde_json::from_str::<serde_json::Value>(row).unwrap()["time/peak_memory_bytes"].as_u64();
    let peaks: Vec<u64> = rows.lines().filter_map(peak).collect();
    if peaks.is_empty() {
        return eprintln!("skipped: this system does not say how much memory a process had");
    }
    assert_eq!(peaks.len(), 14, "a row a step");
    // Four checkpoints are the warm-up, for the allocator learns from the first ones' buffers what to keep; then six steps
    // and three checkpoints within a mebibyte.
    let (warm, last) = (peaks[8], peaks[13]);
    assert!(last <= warm + (1 << 20), "peak memory grew from {warm} to {last} bytes: {peaks:?}");
}
