//! Queries of any sequences that walk their keys together, chunk by chunk.
//!
//! Products are of the queries that read the same page; in between, all scores of a chunk are turned and merged side by
//! side, lanes are queries, with the arithmetic of `tile` per query. A few queries would leave most lanes empty: they are
//! merged one by one, lanes are keys.

use super::super::math;
use super::factors::{Left, Right, Tools, columns, even_only, narrow, product, turn};
use super::{Queries, Scores, tree};
use crate::ops::attn::{CHUNK, Heads, MAX_DIM};
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
    /// `[n, D]`
    pub acc: &'a mut [f32],
    max: Queries,
    pub sum: Queries,
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
    pub fn new(tools: Tools, q: &'a [f32], acc: &'a mut [f32], n: usize, heads: Heads) -> Walk<'a> {
        Walk {
            tools,
            dim: heads.dim,
            scale: heads.scale,
            n,
            q,
            acc,
            max: Queries([f32::NEG_INFINITY; QUERIES]),
            sum: Queries([0.0; QUERIES]),
            sees: [CHUNK as i32; QUERIES],
            rows: Scores([[0.0; CHUNK]; QUERIES]),
            turned: Scores([[0.0; QUERIES]; CHUNK]),
            factors: [[0.0; CHUNK]; CHUNK / 2],
        }
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
            shrink = merge_lanes(&mut self.turned, &self.sees, &mut self.max, &mut self.sum, self.scale);
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

/// Scores of a query -> probabilities relative to the new maximum; returns the factor of what was summed before.
#[inline(always)]
fn merge_row(s: &mut [f32; CHUNK], keys: usize, max: &mut f32, sum: &mut f32, scale: f32) -> f32 {
    let mut top = [0f32; CHUNK];
    for j in 0..CHUNK {
        s[j] = if j < keys { s[j] * scale } else { f32::NEG_INFINITY };
        top[j] = s[j];
    }
    let mut half = CHUNK / 2;
    while half > 0 {
        for j in 0..half {
            top[j] = if top[j + half] > top[j] { top[j + half] } else { top[j] };
        }
        half /= 2;
    }
    let new_max = if top[0] > *max { top[0] } else { *max };
    let shrink = math::exp(*max - new_max);
    for j in 0..CHUNK {
        s[j] = math::exp(s[j] - new_max);
    }
    *sum = *sum * shrink + tree(*s);
    *max = new_max;
    shrink
}

/// The same for every query, `s [key, query]`. Who sees no key of the chunk keeps what it had, exactly.
#[inline(always)]
fn merge_lanes(s: &mut Scores, sees: &[i32; QUERIES], max: &mut Queries, sum: &mut Queries, scale: f32) -> Queries {
    let mut new_max = *max;
    for (j, s) in s.0.iter_mut().enumerate() {
        for i in 0..QUERIES {
            let x = if (j as i32) < sees[i] { s[i] * scale } else { f32::NEG_INFINITY };
            s[i] = x;
            new_max.0[i] = if x > new_max.0[i] { x } else { new_max.0[i] };
        }
    }
    let mut shrink = Queries([0.0; QUERIES]);
    for i in 0..QUERIES {
        shrink.0[i] = math::exp(max.0[i] - new_max.0[i]);
    }
    // The tree of `super::tree`, in every lane; its first two levels as the addends come.
    let mut tree = [[0f32; QUERIES]; CHUNK / 4];
    for j in 0..CHUNK / 4 {
        for row in [j, j + 8, j + 16, j + 24] {
            for i in 0..QUERIES {
                s.0[row][i] = math::exp(s.0[row][i] - new_max.0[i]);
            }
        }
        for i in 0..QUERIES {
            tree[j][i] = (s.0[j][i] + s.0[j + 16][i]) + (s.0[j + 8][i] + s.0[j + 24][i]);
        }
    }
    for half in [4, 2, 1] {
        for j in 0..half {
            for i in 0..QUERIES {
                tree[j][i] += tree[j + half][i];
            }
        }
    }
    for i in 0..QUERIES {
        sum.0[i] = sum.0[i] * shrink.0[i] + tree[0][i];
    }
    *max = new_max;
    shrink
}
