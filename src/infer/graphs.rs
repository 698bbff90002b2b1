//! The graphs of an engine's decode steps: one for each bucket of rows and of keys, captured when its first step runs.
//!
//! The one idea: a step of one row for each of some sequences has the same launches every time but for its number of rows
//! and the segments of keys that are walked side by side. So rows are filled up to the next bucket, with rows nobody reads (a
//! row's bits are its own), keys are counted up to the next one (`PagedRows::longest`), and all that moves from token to token
//! is written to the same places of memory before the launches run again.

use super::batch::Batch;
use crate::device::{Device, Graph, Life};
use crate::error::Result;
use crate::model::{ModelConfig, Weights};
use crate::ops::attn::CHUNK;

/// Buckets are powers of two up to here, then multiples of it.
const STEP: usize = CHUNK / 2;

/// The bucket of `rows` rows: 1, 2, 4, 8, 16, 32, 48, ... and `most`.
pub fn bucket(rows: usize, most: usize) -> usize {
    let up = if rows <= STEP { rows.next_power_of_two() } else { rows.next_multiple_of(STEP) };
    up.min(most)
}

/// What one engine has captured.
pub(super) struct Graphs {
    kept: Vec<Kept>,
    /// Most rows of a decode step.
    most: usize,
}

struct Kept {
    /// Rows, and the keys that one of them sees at most.
    sizes: [usize; 2],
    /// The weights it reads: which, and how they are computed with. Their numbers it finds where they stand.
    weights: Life,
    config: ModelConfig,
    graph: Graph,
}

impl Kept {
    fn fits(&self, sizes: [usize; 2], weights: &Weights) -> bool {
        self.sizes == sizes && self.weights.is(&weights.data().life()) && self.config == weights.config
    }
}

impl Graphs {
    pub fn new(most: usize) -> Graphs {
        Graphs { kept: vec![], most }
    }

    /// The bucket a batch is filled up to: none when it is no decode step, or launches are to be seen one by one.
    pub fn bucket_of(&self, dev: &Device, batch: &Batch) -> Option<usize> {
        (batch.decodes() && dev.replays()).then(|| bucket(batch.n_live(), self.most))
    }

    /// Does what `work` does for these buckets of rows and of keys and these weights: from a graph when there is one, which says true, else by
    /// `work` itself, whose launches are captured.
    pub fn run(
        &mut self,
        dev: &Device,
        weights: &Weights,
        sizes: [usize; 2],
        work: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        if let Some(kept) = self.kept.iter().find(|k| k.fits(sizes, weights) && k.graph.is_whole()) {
            return dev.replay(&kept.graph).map(|()| true);
        }
        // Those of weights that are gone go too.
        self.kept.retain(|k| k.graph.is_whole());
        let graph = dev.capture(&format!("decode of {} rows", sizes[0]), work)?;
        let (weights, config) = (weights.data().life(), weights.config.clone());
        self.kept.push(Kept { sizes, weights, config, graph });
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_rows_and_few_more() {
        let buckets = |most| (1..=most).map(|n| bucket(n, most)).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(buckets(70).into_iter().collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 48, 64, 70]);
        assert_eq!(buckets(16).len(), 5);
        assert_eq!(buckets(3).into_iter().collect::<Vec<_>>(), [1, 2, 3]);
        for n in 1..=500 {
            let rows = bucket(n, 500);
            assert!(rows >= n && rows - n < STEP && rows <= 500 && bucket(rows, 500) == rows, "{n}: {rows}");
        }
    }
}
