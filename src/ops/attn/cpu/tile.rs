//! The walk of a tile: up to [`CHUNK`] queries of some heads, aligned with the chunks of keys, over all keys they see.
//!
//! Packed sequences and paged prefill share it; they differ in where a chunk's keys and values lie.

use super::factors::{HEADS, Tools, by_rows, by_steps, columns, even_only, pair_turned, panels_len, turn};
use super::merge::{Row, Sees, merge, merge_segment};
use super::operands::{Left, Right};
use super::products::{over_keys, scores};
use super::{Queries, Scores};
use crate::device::cpu::rooms::Parts;
use crate::ops::attn::{CHUNK, SEGMENT};
use std::ops::Range;

/// Queries that walk together: of heads that read the same keys.
pub(super) struct Tile<'a> {
    /// The first query of the first head.
    pub q: &'a [f32],
    /// Elements from a query to the next of its head.
    pub stride: usize,
    /// Position, in its sequence, of lane 0: a multiple of [`CHUNK`].
    pub start: usize,
    /// Lanes that hold queries; lane l is position `start + l`.
    pub lanes: Range<usize>,
    /// Heads, `dim` floats apart.
    pub heads: usize,
    /// D.
    pub dim: usize,
    /// Factor of the scores.
    pub scale: f32,
}

/// Where the keys and values of a chunk lie.
pub(super) enum Chunk<'a> {
    /// Rows of floats, so many apart.
    Rows { k: &'a [f32], v: &'a [f32], stride: usize },
    /// Elements: keys `[elements(D), S]`, values `[elements(S), D]`.
    Page { k: &'a [f32], v: &'a [f32] },
}

/// The first `keys` keys and values of a chunk as factors.
#[inline(always)]
fn open<'a>(tools: Tools, at: Chunk<'a>, keys: usize, dim: usize, rooms: [&'a mut [f32]; 2]) -> (Left<'a>, Right<'a>) {
    let [k_room, v_room] = rooms;
    match at {
        Chunk::Rows { k, v, stride } => {
            (by_rows(tools, k, stride, keys, dim, k_room), by_steps(tools, v, stride, keys, dim, v_room))
        }
        Chunk::Page { k, v } => {
            let k = Left { at: k, row: 1, step: CHUNK };
            if keys.is_multiple_of(tools.steps) {
                return (k, Right::rows(v, dim));
            }
            // Beside the last value stands one that nobody has written, or not for this sequence.
            let len = tools.elements(keys) * dim;
            let v_room = &mut v_room[..len];
            v_room.copy_from_slice(&v[..len]);
            v_room[len - dim..].iter_mut().for_each(
                #[inline(always)]
                |v| *v = even_only(*v),
            );
            (k, Right::rows(v_room, dim))
        }
    }
}

/// What the queries of some heads have gathered.
struct Sums<'a> {
    /// `[heads, CHUNK, D]`
    acc: &'a mut [f32],
    max: [Queries; HEADS],
    sum: [Queries; HEADS],
}

impl<'a> Sums<'a> {
    #[inline(always)]
    fn new(acc: &'a mut [f32]) -> Sums<'a> {
        Sums { acc, max: [Queries([f32::NEG_INFINITY; CHUNK]); HEADS], sum: [Queries([0.0; CHUNK]); HEADS] }
    }

    /// Takes a segment, which begins anew; the first stands as it is.
    #[inline(always)]
    fn take(&mut self, part: &mut Sums, first: bool, t: &Tile) {
        for (head, lane) in (0..t.heads).flat_map(|head| t.lanes.clone().map(move |lane| (head, lane))) {
            merge_segment(self.row(head, lane, t.dim), part.row(head, lane, t.dim), first);
        }
    }

    #[inline(always)]
    fn row(&mut self, head: usize, lane: usize, dim: usize) -> Row<'_> {
        let acc = &mut self.acc[(head * CHUNK + lane) * dim..][..dim];
        (&mut self.max[head].0[lane], &mut self.sum[head].0[lane], acc)
    }
}

/// Calls `out(head, lane, o * sum, max, sum)` for every query; `chunk_at(c)` is where the keys from position c on lie, as
/// many as the sequence has, up to [`CHUNK`].
#[inline(always)]
pub(super) fn walk<'a>(
    tools: Tools,
    room: &mut Parts,
    t: Tile,
    chunk_at: impl Fn(usize) -> Chunk<'a>,
    mut out: impl FnMut(usize, usize, &[f32], f32, f32),
) {
    let (dim, len, spare) = (t.dim, CHUNK * t.dim, tools.steps - 1);
    // Of one segment the sums are the total.
    let one = t.start < SEGMENT;
    let [qt, acc, total] = [1, 1, !one as usize].map(|n| room.zeroed(n * t.heads * len));
    let [k, v, p_room] =
        [tools.elements(dim) * CHUNK, panels_len(dim), CHUNK * CHUNK / 2].map(|len| room.zeroed(spare * len));
    let (mut s, mut part, mut total) = (Scores([[0.0; CHUNK]; CHUNK]), Sums::new(acc), Sums::new(total));
    for (head, qt) in qt.chunks_exact_mut(len).enumerate() {
        turn(tools, &t.q[head * dim..], t.stride, t.lanes.clone(), dim, qt);
        pair_turned(tools, qt, dim);
    }
    for chunk in (0..=t.start).step_by(CHUNK) {
        let (diagonal, gathered) = (chunk == t.start, !chunk.is_multiple_of(SEGMENT));
        if chunk > 0 && !gathered {
            total.take(&mut part, chunk == SEGMENT, &t);
        }
        let keys = if diagonal { t.lanes.end } else { CHUNK };
        let (k, v) = open(tools, chunk_at(chunk), keys, dim, [k, v]);
        for head in 0..t.heads {
            let (qt, acc) = (&qt[head * len..][..len], &mut part.acc[head * len..][..len]);
            let q = Right::rows(qt, CHUNK);
            scores(tools, k, q, &mut s, keys, dim, diagonal);
            let (max, sum) = (&mut part.max[head], &mut part.sum[head]);
            let shrink = if diagonal {
                merge(&mut s, Sees::UpToOwn, max, sum, t.scale)
            } else {
                merge(&mut s, Sees::All, max, sum, t.scale)
            };
            if gathered {
                scale_rows(acc, &shrink, t.lanes.clone(), dim);
            }
            let p = columns(tools, &s, keys, p_room);
            let acc = acc[t.lanes.start * dim..t.lanes.end * dim].as_mut_ptr();
            // SAFETY: acc is [lanes, D].
            unsafe { over_keys(tools, p, v, acc, dim, t.lanes.clone(), [CHUNK, dim], gathered, diagonal) };
        }
    }
    if !one {
        total.take(&mut part, false, &t);
    }
    let sums = if one { part } else { total };
    for (head, acc) in sums.acc.chunks_exact(len).enumerate() {
        for lane in t.lanes.clone() {
            out(head, lane, &acc[lane * dim..][..dim], sums.max[head].0[lane], sums.sum[head].0[lane]);
        }
    }
}

#[inline(always)]
fn scale_rows(acc: &mut [f32], shrink: &Queries, lanes: Range<usize>, dim: usize) {
    for i in lanes {
        if shrink.0[i] != 1.0 {
            acc[i * dim..][..dim].iter_mut().for_each(
                #[inline(always)]
                |x| *x *= shrink.0[i],
            );
        }
    }
}
