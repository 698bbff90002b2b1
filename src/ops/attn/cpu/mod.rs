//! Causal grouped-query attention on the CPU.
//!
//! A tile is up to [`CHUNK`] queries of one head, aligned with the chunks of keys, so that only the chunk on the diagonal
//! is cut. Its scores stand `[key, query]`: lanes are queries, and maxima and sums over keys need no shuffles. Packed
//! sequences (`fwd`) and long runs of rows over pages (`pages`) are tiles (`tile`). In decode a tile would be a few queries
//! wide: there queries of any sequences walk together (`walk`). What a page holds, `append` says.
//!
//! A sequence that begins with rows of another one has its first tile inside a chunk. The chunk of keys at its seam is
//! copied together; all others lie in one piece.
//!
//! All do the same arithmetic per query: scores are chains over d, the sum of a chunk is one tree (`merge`), `o` is a
//! chain over the keys of a segment, segments are merged ascending. The gradients are in `bwd`. Products (`products`)
//! multiply floats or pairs of bf16, made by `factors`; all else is f32.

mod append;
mod bwd;
mod factors;
mod fwd;
mod merge;
mod operands;
mod pages;
mod places;
mod products;
mod tile;
mod walk;

pub(crate) use append::Slots;
pub use append::kv_append;
pub use bwd::attn_bwd;
pub use fwd::attn_fwd;
pub use pages::attn_decode;

use crate::device::cpu::math;
use crate::ops::attn::{CHUNK, Heads};
use factors::Tools;

/// Row, position, table, columns of the table: where rows of a paged call live.
pub type Paged<'a> = (&'a [i32], &'a [i32], &'a [i32], usize);

/// Scores of a tile or of a few decode rows.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Scores([[f32; CHUNK]; CHUNK]);

/// One number for each query of a tile.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Queries([f32; CHUNK]);

/// Where, in pages of elements, (page, kv head) starts.
fn page_at(tools: Tools, page: i32, kv: usize, heads: Heads) -> usize {
    (page as usize * heads.kv + kv) * tools.elements(heads.dim * CHUNK)
}

/// Asks for `rows` rows of `width` floats, the first at `at`, `stride` apart: a tile that is next. Its rows are short and
/// far apart, no stream of reads leads to them.
#[inline(always)]
fn prefetch_rows(x: &[f32], at: usize, stride: usize, rows: usize, width: usize) {
    for row in 0..rows {
        math::prefetch(&x[at + row * stride..][..width]);
    }
}

/// Elements between a token's q and the next token's, and the same for k.
fn strides(heads: Heads) -> (usize, usize) {
    (heads.q * heads.dim, heads.kv * heads.dim)
}
