//! Rows of `metrics.jsonl`, and tokens in `episodes.jsonl`.
//!
//! The one idea: every key is a result, the same bits on any machine of one kind, except those under `time/`, which measure
//! the work (seconds, tokens a second, tokens run and reused, pages, peak memory).

use crate::text::Transcript;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A row of metrics: keys in a fixed order.
pub type Metrics = Map<String, Value>;

/// The most resident memory this process ever had (`VmHWM`), in bytes; `None` where the system does not say.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A row without what was measured: the same bits wherever and however often a run is made.
pub fn without_times(row: &Metrics) -> Metrics {
    row.iter().filter(|(key, _)| !key.starts_with("time/")).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// One side's tokens of an episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    /// All ids.
    pub ids: Vec<i32>,
    /// The ranges `[start, end)` of ids that were sampled.
    pub sampled: Vec<[usize; 2]>,
    /// Logprobs of the sampled ids, in order.
    pub logprobs: Vec<f32>,
}

impl Tokens {
    /// The tokens of a transcript.
    pub fn of(transcript: &Transcript) -> Tokens {
        let marks = transcript.sampled();
        let mut sampled: Vec<[usize; 2]> = Vec::new();
        for i in (0..marks.len()).filter(|i| marks[*i]) {
            match sampled.last_mut() {
                Some(last) if last[1] == i => last[1] = i + 1,
                _ => sampled.push([i, i + 1]),
            }
        }
        let logprobs = transcript.logprobs().iter().zip(marks).filter(|(_, s)| **s).map(|(l, _)| *l).collect();
        Tokens { ids: transcript.ids().to_vec(), sampled, logprobs }
    }
}
