//! Queries of any sequences that walk their keys together, chunk by chunk.
//!
//! Products are of the queries that read the same page; in between, all scores of a chunk are turned and merged side by
//! side, lanes are queries, with the arithmetic of `tile` per query. A few queries would leave most lanes empty: they are
//! merged one by one, lanes are keys.

use super::factors::{Tools, columns, even_only, narrow, turn};
use super::merge::{Sees, merge, merge_row, merge_segment};
use super::operands::{Left, Right};
use super::products::product;
use super::{Queries, Scores};
use crate::ops::attn::{CHUNK, Heads, MAX_DIM, SEGMENT};
use std::ops::Range;

/// Queries that walk together at most.
pub(super) const QUERIES: usize = CHUNK;

/// Queries that are merged one by one at most.
const FEW: usize = 4;

/// What queries that walk together have gathered.
pub(super) struct Walk<'a> {
    tools: Tools,
    dim: usize,
    scale: f32,
    /// Queries.
    n: usize,
    /// `[n, elements(D)]`
    q: &'a [f32],
    /// Of the present segment `[n, D]`.
    acc: &'a mut [f32],
    max: Queries,
    sum: Queries,
    /// Of the segments before, where there are some `[n, D]`.
    total_acc: &'a mut [f32],
    total_max: Queries,
    total_sum: Queries,
    /// Keys of the chunk that each query sees.
    pub sees: [i32; QUERIES],
    /// Scores of the chunk `[query, key]`, of few queries then probabilities.
    rows: Scores,
    /// Of many queries the probabilities, `[key, query]`.
    turned: Scores,
    /// The probabilities in pairs: `[key pair, query]`, of few queries `[query, key pair]`.
    factors: [[f32; CHUNK]; CHUNK / 2],
}

impl<'a> Walk<'a> {
    #[inline(always)]
    pub fn new(tools: Tools, q: &'a [f32], [acc, total_acc]: [&'a mut [f32]; 2], n: usize, heads: Heads) -> Walk<'a> {
        Walk {
            tools,
            dim: heads.dim,
            scale: heads.scale,
            n,
            q,
            acc,
            max: Queries([f32::NEG_INFINITY; QUERIES]),
            sum: Queries([0.0; QUERIES]),
            total_acc,
            total_max: Queries([f32::NEG_INFINITY; QUERIES]),
            total_sum: Queries([0.0; QUERIES]),
            sees: [CHUNK as i32; QUERIES],
            rows: Scores([[0.0; CHUNK]; QUERIES]),
            turned: Scores([[0.0; QUERIES]; CHUNK]),
            factors: [[0.0; CHUNK]; CHUNK / 2],
        }
    }

    /// Query i ends a segment: its total takes it; the first stands as it is.
    #[inline(always)]
    pub fn end_segment(&mut self, i: usize, first: bool) {
        let row = i * self.dim..(i + 1) * self.dim;
        let total = (&mut self.total_max.0[i], &mut self.total_sum.0[i], &mut self.total_acc[row.clone()]);
        merge_segment(total, (&mut self.max.0[i], &mut self.sum.0[i], &mut self.acc[row]), first);
    }

    /// `o sum [D]` and sum of query i, which has seen so many `keys`, its last.
    #[inline(always)]
    pub fn end(&mut self, i: usize, keys: usize) -> (&[f32], f32) {
        let row = i * self.dim..(i + 1) * self.dim;
        if keys <= SEGMENT {
            return (&self.acc[row], self.sum.0[i]);
        }
        self.end_segment(i, false);
        (&self.total_acc[row], self.total_sum.0[i])
    }

    /// Scores of the queries that read a page of keys.
    #[inline(always)]
    pub fn scores(&mut self, k: &[f32], these: Range<usize>) {
        let len = self.tools.elements(self.dim);
        let q = Left { at: &self.q[these.start * len..these.end * len], row: len, step: 1 };
        let rows = self.rows.0[these.clone()].as_mut_ptr().cast();
        // SAFETY: there is a row of CHUNK for each of these.
        unsafe { product(self.tools, q, Right::rows(k, CHUNK), rows, CHUNK, [these.len(), CHUNK, len], false) };
    }

    /// Scores -> probabilities; shrinks what was gathered before.
    #[inline(always)]
    pub fn merge(&mut self, gathered: bool) {
        let mut shrink = Queries([1.0; QUERIES]);
        if self.n <= FEW {
            for i in (0..self.n).filter(|i| self.sees[*i] > 0) {
                let (max, sum) = (&mut self.max.0[i], &mut self.sum.0[i]);
                shrink.0[i] = merge_row(&mut self.rows.0[i], self.sees[i] as usize, max, sum, self.scale);
            }
        } else {
            turn(self.tools, self.rows.0.as_flattened(), CHUNK, 0..QUERIES, CHUNK, self.turned.0.as_flattened_mut());
            shrink = merge(&mut self.turned, Sees::First(&self.sees), &mut self.max, &mut self.sum, self.scale);
        }
        for i in (0..self.n).filter(|i| gathered && shrink.0[*i] != 1.0) {
            self.acc[i * self.dim..][..self.dim].iter_mut().for_each(
                #[inline(always)]
                |x| *x *= shrink.0[i],
            );
        }
        self.make_factors();
    }

    /// Probabilities -> pairs, at medium precision.
    #[inline(always)]
    fn make_factors(&mut self) {
        let room = self.factors.as_flattened_mut();
        if self.tools.steps == 1 {
            return;
        }
        if self.n > FEW {
            columns(self.tools, &self.turned, CHUNK, room);
            return;
        }
        for (from, to) in self.rows.0[..self.n].iter().zip(room.chunks_exact_mut(CHUNK / 2)) {
            narrow(self.tools, from, to);
        }
    }

    /// Probabilities of the queries from `i` on, of the chunk's elements from `first` on.
    #[inline(always)]
    fn left(&self, i: usize, first: usize) -> Left<'_> {
        let (at, row, step) = match (self.n > FEW, self.tools.steps) {
            (true, 1) => (self.turned.0.as_flattened(), 1, CHUNK),
            (true, _) => (self.factors.as_flattened(), 1, CHUNK),
            (false, 1) => (self.rows.0.as_flattened(), CHUNK, 1),
            (false, _) => (self.factors.as_flattened(), CHUNK / 2, 1),
        };
        Left { at: &at[i * row + first * step..], row, step }
    }

    /// `acc[i] += p[i] v`, keys in order: those that all of these see together, then the rest row by row.
    #[inline(always)]
    pub fn values(&mut self, v: &[f32], these: Range<usize>, gathered: bool) {
        let (mut low, mut high) = (CHUNK, 0);
        for sees in &self.sees[these.clone()] {
            (low, high) = (low.min(*sees as usize), high.max(*sees as usize));
        }
        let all = if low == high { low } else { low / self.tools.steps * self.tools.steps };
        self.values_of(v, these.clone(), 0..all, gathered);
        for i in these {
            let sees = self.sees[i] as usize;
            if sees > all {
                self.values_of(v, i..i + 1, all..sees, true);
            }
        }
    }

    /// The same of keys `keys`, the first of which starts an element.
    #[inline(always)]
    fn values_of(&mut self, v: &[f32], these: Range<usize>, keys: Range<usize>, load: bool) {
        let (dim, steps) = (self.dim, self.tools.steps);
        let (n, first, whole) = (these.len(), keys.start / steps, keys.len() / steps);
        let acc = self.acc[these.start * dim..these.end * dim].as_mut_ptr();
        // SAFETY: acc is [n, D] of these.
        unsafe {
            let v = Right::rows(&v[first * dim..], dim);
            product(self.tools, self.left(these.start, first), v, acc, dim, [n, dim, whole], load);
        }
        if keys.len().is_multiple_of(steps) {
            return;
        }
        // Beside the last value stands one that nobody has written, or not for this sequence.
        let mut last = [0f32; MAX_DIM];
        for (v, to) in v[(first + whole) * dim..][..dim].iter().zip(&mut last) {
            *to = even_only(*v);
        }
        // SAFETY: as above.
        unsafe {
            let (p, v) = (self.left(these.start, first + whole), Right::rows(&last, dim));
            product(self.tools, p, v, acc, dim, [n, dim, 1], load || whole > 0);
        }
    }
}
