//! Causal grouped-query attention on the CPU.
//!
//! A tile is [`CHUNK`] queries of one head, aligned with the chunks of keys, so that only the chunk on the diagonal
//! is cut. Its scores stand `[key, query]`: lanes are queries, and maxima and sums over keys need no shuffles.
//! In decode a tile would be a few queries wide; there lanes are the keys of a page (`pages`). Both forms do the same
//! arithmetic per query: scores are chains over d, sums of a chunk are the tree of `tree`, `o` is a chain over keys.

mod bwd;
mod fwd;
mod pages;
mod tile;

pub use bwd::attn_bwd;
pub use fwd::attn_fwd;
pub use pages::{Paged, attn_decode, kv_append};

use super::math::Isa;
use super::{gemm, mm};
use crate::ops::attn::{CHUNK, Heads, MAX_DIM};
use std::mem::MaybeUninit;
use std::ops::Range;

/// What is compiled for an instruction set of its own.
#[derive(Clone, Copy)]
struct Tools {
    mm: mm::Mm,
    turn: gemm::Pack,
}

impl Tools {
    fn of(isa: Isa) -> Tools {
        const { assert!(CHUNK == 32) };
        Tools { mm: mm::mm(isa), turn: gemm::turn_32(isa) }
    }
}

/// Scores of a tile or of a few decode rows.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Scores([[f32; CHUNK]; CHUNK]);

/// One number for each query of a tile.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Queries([f32; CHUNK]);

/// Room on the stack for `[D, CHUNK]` or `[CHUNK, D]`.
#[repr(align(64))]
struct Room(MaybeUninit<[f32; CHUNK * MAX_DIM]>);

impl Room {
    /// Its first `len` elements, zeroed; the rest costs nothing.
    #[inline(always)]
    fn zeroed(&mut self, len: usize) -> &mut [f32] {
        assert!(len <= CHUNK * MAX_DIM);
        let to = self.0.as_mut_ptr().cast::<f32>();
        // SAFETY: `len` elements are inside the room and initialised here.
        unsafe {
            to.write_bytes(0, len);
            std::slice::from_raw_parts_mut(to, len)
        }
    }
}

/// The sum of 32 addends: halves added to each other, 16, 8, 4, 2, 1. The one order of a chunk's sum.
#[inline(always)]
fn tree(mut p: [f32; CHUNK]) -> f32 {
    let mut half = CHUNK / 2;
    while half > 0 {
        for j in 0..half {
            p[j] += p[j + half];
        }
        half /= 2;
    }
    p[0]
}

/// Where tile number `slot` lies: (first row of its sequence, its first row in it, its rows), or none.
///
/// Sequence s owns slots from `cu[s] / CHUNK + s` on: never fewer than it has tiles, so that no list of tiles is
/// needed; spare slots are none.
fn tile_at(cu: &[i32], slot: usize) -> Option<(usize, usize, usize)> {
    let first = |s: usize| cu[s] as usize / CHUNK + s;
    let (mut low, mut high) = (0, cu.len() - 1);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if first(middle) <= slot { low = middle } else { high = middle }
    }
    let (start, end) = (cu[low] as usize, cu[low + 1] as usize);
    let tile = (slot - first(low)) * CHUNK;
    (tile < end - start).then(|| (start, tile, CHUNK.min(end - start - tile)))
}

/// Number of tile slots, see [`tile_at`].
fn n_slots(cu: &[i32]) -> usize {
    cu[cu.len() - 1] as usize / CHUNK + cu.len() - 1
}

/// `to [D, CHUNK] = ` rows of `from` (`stride` apart) turned, the first one into the first of `lanes`; 0 elsewhere.
#[inline(always)]
fn turn(tools: Tools, from: &[f32], stride: usize, lanes: Range<usize>, dim: usize, to: &mut [f32]) {
    assert!((lanes.len() - 1) * stride + dim <= from.len() && dim * CHUNK <= to.len(), "rows of a tile");
    if lanes.start == 0 {
        // SAFETY: as many rows are there, and so is the room (above).
        return unsafe { (tools.turn)(from.as_ptr(), stride, lanes.len(), dim, to.as_mut_ptr()) };
    }
    to[..dim * CHUNK].fill(0.0);
    for (j, lane) in lanes.enumerate() {
        for (x, to) in from[j * stride..][..dim].iter().zip(to.as_chunks_mut::<CHUNK>().0) {
            to[lane] = *x;
        }
    }
}

/// Elements between a token's q and the next token's, and the same for k.
fn strides(heads: Heads) -> (usize, usize) {
    (heads.q * heads.dim, heads.kv * heads.dim)
}
