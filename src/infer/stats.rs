//! What an engine has done, counted since its birth or the last `take`.

/// Counts and times of an engine.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Forwards.
    pub steps: u64,
    /// Rows of prompts, of incoming turns and of recomputed sequences.
    pub rows_prefill: u64,
    /// Rows of tokens that had just been sampled.
    pub rows_decode: u64,
    /// Tokens sampled.
    pub sampled_tok: u64,
    /// Prompt tokens that were not run because the prefix cache held them.
    pub prefix_reused_tok: u64,
    /// The most pages held at a time.
    pub pages_peak: usize,
    /// Times a sequence lost its pages to another.
    pub preemptions: u64,
    /// Decode steps that were captured as graphs.
    pub captures: u64,
    /// Decode steps that ran from a graph.
    pub replays: u64,
    /// Seconds in prefill rows: each step's time, shared out by rows.
    pub prefill_s: f64,
    /// Seconds in decode rows, sampling included.
    pub decode_s: f64,
}

impl Stats {
    /// Adds what was done in another stretch of the same engine.
    pub fn add(&mut self, other: &Stats) {
        self.steps += other.steps;
        self.rows_prefill += other.rows_prefill;
        self.rows_decode += other.rows_decode;
        self.sampled_tok += other.sampled_tok;
        self.prefix_reused_tok += other.prefix_reused_tok;
        self.pages_peak = self.pages_peak.max(other.pages_peak);
        self.preemptions += other.preemptions;
        self.captures += other.captures;
        self.replays += other.replays;
        self.prefill_s += other.prefill_s;
        self.decode_s += other.decode_s;
    }
}
