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

/// The chunk of a sequence's keys, from position `at` on, whose first keys are the prefix's and whose others are its own.
pub(super) fn seam(seq: Sequence) -> Option<usize> {
    (!seq.prefix.is_multiple_of(CHUNK) && seq.own > 0).then_some(seq.prefix / CHUNK * CHUNK)
}

/// `to [CHUNK, D] = ` the rows of one kv head at positions `at..` of a sequence, as many as it has.
#[inline(always)]
pub(super) fn gather(from: &[f32], seq: Sequence, at: usize, kv: usize, heads: Heads, to: &mut [f32]) {
    let (dim, stride) = (heads.dim, strides(heads).1);
    for (i, to) in to.chunks_exact_mut(dim).take(CHUNK.min(seq.len() - at)).enumerate() {
        to.copy_from_slice(&from[seq.row(at + i) * stride + kv * dim..][..dim]);
    }
}

/// The same of gradients; own rows are 0 where nothing was added to them yet.
///
/// # Safety
/// No other task writes these rows of the kv head.
#[inline(always)]
pub(super) unsafe fn gather_sums(
    from: Shared<f32>,
    seq: Sequence,
    at: usize,
    kv: usize,
    heads: Heads,
    opens: bool,
    to: &mut [f32],
) {
    let (dim, stride) = (heads.dim, strides(heads).1);
    for (i, to) in to.chunks_exact_mut(dim).take(CHUNK.min(seq.len() - at)).enumerate() {
        if opens && at + i >= seq.prefix {
            to.fill(0.0);
        } else {
            // SAFETY: the caller's promise.
            to.copy_from_slice(unsafe { from.part(seq.row(at + i) * stride + kv * dim, dim) });
        }
    }
}

/// Their way back, of the first `keys` keys.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn scatter_sums(
    from: &[f32],
    seq: Sequence,
    at: usize,
    kv: usize,
    heads: Heads,
    keys: usize,
    to: Shared<f32>,
) {
    let (dim, stride) = (heads.dim, strides(heads).1);
    for (i, from) in from.chunks_exact(dim).take(keys).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { to.part(seq.row(at + i) * stride + kv * dim, dim) }.copy_from_slice(from);
    }
}
