//! The walk of a tile: up to [`CHUNK`] queries of one head, aligned with the chunks of keys, over all keys they see.
//!
//! Packed sequences and paged prefill share it; they differ in where a chunk's keys and values lie.

use super::super::math;
use super::{Queries, Room, Scores, Tools, turn};
use crate::ops::attn::CHUNK;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Queries of one head that walk together.
pub(super) struct Tile<'a> {
    /// The first query.
    pub q: &'a [f32],
    /// Elements from a query to the next.
    pub stride: usize,
    /// Position, in its sequence, of lane 0: a multiple of [`CHUNK`].
    pub start: usize,
    /// Lanes that hold queries; lane l is position `start + l`.
    pub lanes: Range<usize>,
    /// D.
    pub dim: usize,
    /// Factor of the scores.
    pub scale: f32,
}

/// Where the keys and values of a chunk lie: key j is `k[j k_row + d k_step]`, value j is `v[j v_row + d]`.
pub(super) struct Chunk<'a> {
    pub k: &'a [f32],
    pub k_row: usize,
    pub k_step: usize,
    pub v: &'a [f32],
    pub v_row: usize,
}

/// Calls `out(lane, o * sum, max, sum)` for every query; `chunk_at(c)` holds the keys from position c on, as many as
/// the sequence has, up to [`CHUNK`].
#[inline(always)]
pub(super) fn walk<'a>(
    tools: Tools,
    t: Tile,
    chunk_at: impl Fn(usize) -> Chunk<'a>,
    mut out: impl FnMut(usize, &[f32], f32, f32),
) {
    let dim = t.dim;
    let (mut qt, mut acc) = (Room(MaybeUninit::uninit()), Room(MaybeUninit::uninit()));
    let (qt, acc) = (qt.zeroed(CHUNK * dim), acc.zeroed(CHUNK * dim));
    let mut s = Scores([[0.0; CHUNK]; CHUNK]);
    let (mut max, mut sum) = (Queries([f32::NEG_INFINITY; CHUNK]), Queries([0.0; CHUNK]));
    turn(tools, t.q, t.stride, t.lanes.clone(), dim, qt);
    for chunk in (0..=t.start).step_by(CHUNK) {
        let diagonal = chunk == t.start;
        let keys = if diagonal { t.lanes.end } else { CHUNK };
        let at = chunk_at(chunk);
        assert!((keys - 1) * at.k_row + (dim - 1) * at.k_step < at.k.len(), "keys of a chunk");
        assert!((keys - 1) * at.v_row + dim <= at.v.len(), "values of a chunk");
        // SAFETY: `keys` keys are there (above); qt is [D, CHUNK], s is [CHUNK, CHUNK].
        unsafe {
            let (k, s) = (at.k.as_ptr(), s.0.as_mut_ptr().cast());
            (tools.mm)(k, at.k_row, at.k_step, qt.as_ptr(), CHUNK, s, CHUNK, keys, CHUNK, dim, false);
        }
        let shrink = merge(&mut s, &mut max, &mut sum, t.scale, diagonal);
        if chunk > 0 {
            scale_rows(acc, &shrink, t.lanes.clone(), dim);
        }
        add_values(tools, &s, at.v, at.v_row, acc, t.lanes.clone(), dim, chunk > 0, diagonal);
    }
    for lane in t.lanes {
        out(lane, &acc[lane * dim..][..dim], max.0[lane], sum.0[lane]);
    }
}

/// Scores -> probabilities relative to the new maximum; returns the factor of what was summed before.
/// On the diagonal, query i sees keys up to i.
#[inline(always)]
fn merge(s: &mut Scores, max: &mut Queries, sum: &mut Queries, scale: f32, diagonal: bool) -> Queries {
    let mut new_max = *max;
    for j in 0..CHUNK {
        for i in 0..CHUNK {
            let x = s.0[j][i] * scale;
            let x = if diagonal && j > i { f32::NEG_INFINITY } else { x };
            s.0[j][i] = x;
            new_max.0[i] = if x > new_max.0[i] { x } else { new_max.0[i] };
        }
    }
    let mut shrink = Queries([0.0; CHUNK]);
    for i in 0..CHUNK {
        shrink.0[i] = math::exp(max.0[i] - new_max.0[i]);
    }
    for j in 0..CHUNK {
        for i in 0..CHUNK {
            s.0[j][i] = math::exp(s.0[j][i] - new_max.0[i]);
        }
    }
    // The tree of `super::tree`, in every lane.
    // All rows of a level at once, as one row of floats: nested loops would be vectorised across rows, with gathers.
    let mut half = Scores(s.0);
    let mut rows = half.0.as_flattened_mut();
    while rows.len() > CHUNK {
        let (low, high) = rows.split_at_mut(rows.len() / 2);
        low.iter_mut().zip(high).for_each(
            #[inline(always)]
            |(a, b)| *a += *b,
        );
        rows = low;
    }
    for i in 0..CHUNK {
        sum.0[i] = sum.0[i] * shrink.0[i] + half.0[0][i];
    }
    *max = new_max;
    shrink
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

/// `acc[i] += p[i] v`, keys in order, or `=` when not `load`; on the diagonal only the keys a query sees.
#[inline(always)]
fn add_values(
    tools: Tools,
    p: &Scores,
    v: &[f32],
    v_row: usize,
    acc: &mut [f32],
    lanes: Range<usize>,
    dim: usize,
    load: bool,
    diagonal: bool,
) {
    let (p, v, acc) = (p.0.as_ptr().cast::<f32>(), v.as_ptr(), acc.as_mut_ptr());
    // SAFETY: p is [CHUNK, CHUNK] read by columns, acc [CHUNK, D]; key j of v exists: j < CHUNK, or below the lanes'
    // end on the diagonal.
    unsafe {
        if !diagonal {
            let (p, acc) = (p.add(lanes.start), acc.add(lanes.start * dim));
            return (tools.mm)(p, 1, CHUNK, v, v_row, acc, dim, lanes.len(), dim, CHUNK, load);
        }
        // Eight queries share the keys that any of them sees: what one does not see has probability 0, and a product
        // with 0 leaves a sum as it is.
        for first in lanes.clone().step_by(8) {
            let end = lanes.end.min(first + 8);
            (tools.mm)(p.add(first), 1, CHUNK, v, v_row, acc.add(first * dim), dim, end - first, dim, end, load);
        }
    }
}
