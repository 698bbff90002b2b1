//! Where the tiles of packed sequences lie, and the chunk of keys at the seam of a prefix and what stands on it.

use super::strides;
use crate::device::cpu::pool::Shared;
use crate::ops::attn::{CHUNK, Heads, Sequence, Sequences};
use std::ops::Range;

/// Queries of a tile: own rows of a sequence, that a chunk of positions holds.
#[derive(Clone)]
pub(super) struct Place {
    pub seq: Sequence,
    /// Position of lane 0: a multiple of [`CHUNK`].
    pub at: usize,
    /// Lanes that are own rows; those before them are rows of the prefix.
    pub lanes: Range<usize>,
}

impl Place {
    /// The queries from position `at` on, or none.
    pub fn of(seq: Sequence, at: usize) -> Option<Place> {
        let (start, end) = (seq.prefix.saturating_sub(at), CHUNK.min(seq.len().saturating_sub(at)));
        (seq.own > 0 && start < end).then_some(Place { seq, at, lanes: start..end })
    }

    /// Row of the first query.
    #[inline(always)]
    pub fn row(&self) -> usize {
        self.seq.row(self.at + self.lanes.start)
    }
}

/// Tile number `slot`, or none.
///
/// Sequence s owns slots from `cu[s] / CHUNK + s` on, or `+ 2 s` where tiles may begin inside a chunk: never fewer than it
/// has tiles, so that no list of tiles is needed; spare slots are none.
pub(super) fn tile_at(seqs: Sequences, slot: usize) -> Option<Place> {
    let first = |s: usize| first_slot(seqs, s);
    let (mut low, mut high) = (0, seqs.len());
    while high - low > 1 {
        let middle = (low + high) / 2;
        if first(middle) <= slot { low = middle } else { high = middle }
    }
    let seq = seqs.at(low);
    Place::of(seq, (seq.prefix / CHUNK + slot - first(low)) * CHUNK)
}

fn first_slot(seqs: Sequences, s: usize) -> usize {
    seqs.cu[s] as usize / CHUNK + if seqs.prefixes.is_empty() { s } else { 2 * s }
}

/// Number of tile slots, see [`tile_at`].
pub(super) fn n_slots(seqs: Sequences) -> usize {
    first_slot(seqs, seqs.len())
}

/// Up to [`CHUNK`] keys of one kv head: those of a sequence from position `at` on.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    pub seq: Sequence,
    pub at: usize,
    pub kv: usize,
    pub heads: Heads,
}

impl Keys {
    /// Whether the first of them are the prefix's and the others its own: then they lie in two places.
    #[inline(always)]
    pub fn at_seam(self) -> bool {
        let (prefix, at) = (self.seq.prefix, self.at);
        self.seq.own > 0 && at < prefix && prefix < at + CHUNK
    }

    /// Where key i starts.
    #[inline(always)]
    pub fn offset(self, i: usize) -> usize {
        let dim = self.heads.dim;
        self.seq.row(self.at + i) * strides(self.heads).1 + self.kv * dim
    }

    fn len(self) -> usize {
        CHUNK.min(self.seq.len() - self.at)
    }

    /// Copies them together, `to [CHUNK, D]`.
    #[inline(always)]
    pub fn gather(self, from: &[f32], to: &mut [f32]) {
        let dim = self.heads.dim;
        for (i, to) in to.chunks_exact_mut(dim).take(self.len()).enumerate() {
            to.copy_from_slice(&from[self.offset(i)..][..dim]);
        }
    }

    /// The same of their gradients; `opens`: nothing was added to those of own ones yet.
    ///
    /// # Safety
    /// No other task writes rows of this family and kv head.
    #[inline(always)]
    pub unsafe fn gather_sums(self, from: Shared<f32>, opens: bool, to: &mut [f32]) {
        let dim = self.heads.dim;
        for (i, to) in to.chunks_exact_mut(dim).take(self.len()).enumerate() {
            if opens && self.at + i >= self.seq.prefix {
                to.fill(0.0);
            } else {
                // SAFETY: the caller's promise.
                to.copy_from_slice(unsafe { from.part(self.offset(i), dim) });
            }
        }
    }

    /// Their way back, of the first `keys` keys.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub unsafe fn scatter_sums(self, from: &[f32], keys: usize, to: Shared<f32>) {
        let dim = self.heads.dim;
        for (i, from) in from.chunks_exact(dim).take(keys).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.part(self.offset(i), dim) }.copy_from_slice(from);
        }
    }
}
