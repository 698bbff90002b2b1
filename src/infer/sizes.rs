//! How large an engine is.

use crate::ops::attn::CHUNK;

/// Sizes of an engine. Results never depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Pages of [`CHUNK`] tokens.
    pub max_pages: usize,
    /// Rows of one forward.
    pub max_rows: usize,
    /// Sequences held at a time, waiting ones included.
    pub max_seqs: usize,
    /// Share the pages of equal prefixes.
    pub prefix_reuse: bool,
    /// Run decode steps from graphs, see `graphs.rs`: emu and cuda. It takes a page and a row of the page table more.
    pub graphs: bool,
}

impl EngineConfig {
    /// Sizes that hold `max_seqs` sequences of `max_tokens` each without preemption.
    pub fn sized_for(max_seqs: usize, max_tokens: usize) -> EngineConfig {
        let max_pages = max_seqs * (max_tokens.div_ceil(CHUNK) + 1);
        EngineConfig { max_pages, max_rows: 1024.max(max_seqs), max_seqs, prefix_reuse: true, graphs: false }
    }
}
