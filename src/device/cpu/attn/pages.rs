//! Attention over pages: decode, and prefill of any chunking. What a page holds: `append`.

use super::super::pool::Shared;
use super::super::{Cpu, math};
use super::factors::{Left, Right, Tools, even_only, narrow, product};
use super::tile::{self, Chunk, Tile};
use super::{Floats, Paged, page_at, strides, tree};
use crate::ops::attn::{CHUNK, Heads, MAX_DIM};
use std::ops::Range;

/// Rows of a call whose runs one task takes, and the longest run that walks with lanes of keys.
const ROWS: usize = 8;

/// Queries that walk together at most.
const QUERIES: usize = 16;

/// Scores of queries that walk together, `[query, key]`.
#[repr(align(64))]
struct Rows([[f32; CHUNK]; QUERIES]);

/// See [`crate::ops::attn::attn_decode`].
pub fn attn_decode(cpu: &Cpu, q: &[f32], k_pages: &[f32], v_pages: &[f32], at: Paged, o: &mut [f32], heads: Heads) {
    let n = at.1.len();
    let (o, tools) = (Shared::new(o), Tools::of(cpu));
    let call = Call { q, k_pages, v_pages, at, o, tools, heads };
    cpu.pool.run(n.div_ceil(ROWS) * heads.kv, |task| {
        let (first, kv) = (task / heads.kv * ROWS, task % heads.kv);
        cpu.isa.run(
            #[inline(always)]
            || call.rows(first, n.min(first + ROWS), kv),
        )
    });
}

struct Call<'a> {
    q: &'a [f32],
    k_pages: &'a [f32],
    v_pages: &'a [f32],
    at: Paged<'a>,
    o: Shared<f32>,
    tools: Tools,
    heads: Heads,
}

/// A query: where it starts in q and o, the row of the table of its sequence, how many keys it sees.
#[derive(Clone, Copy, Default)]
struct Query {
    at: usize,
    seq: usize,
    keys: usize,
}

impl Call<'_> {
    /// The runs that start in rows `row..end`, of one kv head: long ones as tiles, all others together.
    #[inline(always)]
    fn rows(&self, row: usize, end: usize, kv: usize) {
        let (seq, pos, ..) = self.at;
        let (stride, dim, group) = (strides(self.heads).0, self.heads.dim, self.heads.q / self.heads.kv);
        let together = self.tools.heads(group, dim);
        let (mut queries, mut n_queries) = ([Query::default(); QUERIES], 0);
        for row in row..end {
            if self.continues(row) {
                continue;
            }
            let n = 1 + (row + 1..pos.len()).take_while(|row| self.continues(*row)).count();
            if n > ROWS {
                for first in (0..group).step_by(together) {
                    self.tile(row, n, kv, first..group.min(first + together));
                }
                continue;
            }
            for i in 0..n * group {
                let (row, head) = (row + i / group, kv * group + i % group);
                let at = row * stride + head * dim;
                queries[n_queries] = Query { at, seq: seq[row] as usize, keys: pos[row] as usize + 1 };
                n_queries += 1;
                if n_queries == QUERIES {
                    self.walk(&queries, kv);
                    n_queries = 0;
                }
            }
        }
        self.walk(&queries[..n_queries], kv);
    }

    /// Whether a row is the next position of the row before, in the same chunk: a run walks together, head by head.
    #[inline(always)]
    fn continues(&self, row: usize) -> bool {
        let (seq, pos, ..) = self.at;
        row > 0
            && seq[row] == seq[row - 1]
            && pos[row] == pos[row - 1] + 1
            && !(pos[row] as usize).is_multiple_of(CHUNK)
    }

    /// A long run of `n` rows, some heads of a group: lanes are its queries, as in packed sequences.
    #[inline(always)]
    fn tile(&self, row: usize, n: usize, kv: usize, these: Range<usize>) {
        let (dim, stride, (seq, pos, table, max_pages)) = (self.heads.dim, strides(self.heads).0, self.at);
        let (pages, group) = (&table[seq[row] as usize * max_pages..], self.heads.q / self.heads.kv);
        let (first, lane) = (row * stride + (kv * group + these.start) * dim, pos[row] as usize % CHUNK);
        let queries = Tile {
            q: &self.q[first..],
            stride,
            start: pos[row] as usize - lane,
            lanes: lane..lane + n,
            heads: these.len(),
            dim,
            scale: self.heads.scale,
        };
        tile::walk(
            self.tools,
            queries,
            #[inline(always)]
            |chunk| {
                let (k, v) = self.page(page_at(self.tools, pages[chunk / CHUNK], kv, self.heads));
                Chunk::Page { k, v }
            },
            #[inline(always)]
            |head, at, acc, _, sum| self.store(first + (at - lane) * stride + head * dim, acc, sum),
        );
    }

    /// Keys and values of a page of one kv head.
    #[inline(always)]
    fn page(&self, at: usize) -> (&[f32], &[f32]) {
        let len = self.tools.elements(self.heads.dim * CHUNK);
        (&self.k_pages[at..][..len], &self.v_pages[at..][..len])
    }

    #[inline(always)]
    fn store(&self, at: usize, acc: &[f32], sum: f32) {
        // SAFETY: no other task has this row and head.
        let o = unsafe { self.o.part(at, acc.len()) };
        let inverse = 1.0 / sum;
        for (o, x) in o.iter_mut().zip(acc) {
            *o = x * inverse;
        }
    }

    /// Few queries, of any sequences: chunk by chunk, those that read the same page together. Neighbours whose
    /// sequences share a prompt's pages load its keys once for all.
    #[inline(always)]
    fn walk(&self, queries: &[Query], kv: usize) {
        let (dim, (_, _, table, max_pages)) = (self.heads.dim, self.at);
        let page = |query: &Query, chunk: usize| {
            let at = |page| page_at(self.tools, page, kv, self.heads);
            (query.keys > chunk).then(|| at(table[query.seq * max_pages + chunk / CHUNK]))
        };
        let (mut q, mut acc) = (Floats::new(), Floats::new());
        let len = self.tools.elements(dim);
        let (q, acc) = (q.zeroed(queries.len() * len), acc.zeroed(queries.len() * dim));
        for (query, to) in queries.iter().zip(q.chunks_exact_mut(len)) {
            let from = &self.q[query.at..][..dim];
            if self.tools.steps == 1 { to.copy_from_slice(from) } else { narrow(self.tools, from, to) }
        }
        let mut walk = Walk {
            tools: self.tools,
            queries,
            q,
            acc,
            max: [f32::NEG_INFINITY; QUERIES],
            sum: [0.0; QUERIES],
            p: Rows([[0.0; CHUNK]; QUERIES]),
            dim,
            scale: self.heads.scale,
        };
        let longest = queries.iter().map(|query| query.keys).max().unwrap_or(0);
        for chunk in (0..longest).step_by(CHUNK) {
            let mut next = 0;
            while next < queries.len() {
                let (i, at) = (next, page(&queries[next], chunk));
                next = i + queries[i..].iter().take_while(|query| page(query, chunk) == at).count();
                let Some(at) = at else { continue };
                // No stream of reads leads from page to page: the addresses of the chunk after this one are
                // looked up early, the next page is fetched.
                if let Some(at) = page(&queries[i], chunk + CHUNK) {
                    math::prefetch(&self.k_pages[at..][..1]);
                    math::prefetch(&self.v_pages[at..][..1]);
                }
                let ahead = if next < queries.len() { (next, chunk) } else { (0, chunk + CHUNK) };
                if let Some(at) = page(&queries[ahead.0], ahead.1) {
                    let (k, v) = self.page(at);
                    math::prefetch(k);
                    math::prefetch(v);
                }
                let (k, v) = self.page(at);
                walk.scores(k, i..next);
                walk.merge(i..next, chunk);
                walk.values(v, i..next, chunk);
            }
        }
        for (i, query) in queries.iter().enumerate() {
            self.store(query.at, &walk.acc[i * dim..][..dim], walk.sum[i]);
        }
    }
}

/// What queries that walk together have gathered.
struct Walk<'a> {
    tools: Tools,
    queries: &'a [Query],
    /// `[n, elements(D)]`
    q: &'a [f32],
    /// `[n, D]`
    acc: &'a mut [f32],
    max: [f32; QUERIES],
    sum: [f32; QUERIES],
    /// Scores of the chunk, then probabilities.
    p: Rows,
    dim: usize,
    scale: f32,
}

impl Walk<'_> {
    /// Scores of the queries that read a page of keys.
    #[inline(always)]
    fn scores(&mut self, k: &[f32], these: Range<usize>) {
        let len = self.tools.elements(self.dim);
        let q = Left { at: &self.q[these.start * len..these.end * len], row: len, step: 1 };
        let k = Right::rows(k, CHUNK);
        let p = self.p.0[these.clone()].as_mut_ptr().cast();
        // SAFETY: p holds a row of CHUNK for each of these.
        unsafe { product(self.tools, q, k, p, CHUNK, [these.len(), CHUNK, len], false) };
    }

    /// How many keys of a chunk query i sees.
    #[inline(always)]
    fn sees(&self, i: usize, chunk: usize) -> usize {
        CHUNK.min(self.queries[i].keys - chunk)
    }

    /// Scores -> probabilities; shrinks what was gathered before.
    #[inline(always)]
    fn merge(&mut self, these: Range<usize>, chunk: usize) {
        for i in these {
            let sees = self.sees(i, chunk);
            let shrink = merge(&mut self.p.0[i], sees, &mut self.max[i], &mut self.sum[i], self.scale);
            if chunk > 0 && shrink != 1.0 {
                self.acc[i * self.dim..][..self.dim].iter_mut().for_each(
                    #[inline(always)]
                    |x| *x *= shrink,
                );
            }
        }
    }

    /// `acc[i] += p[i] v`, keys in order: those that all of these see together, then the rest row by row.
    #[inline(always)]
    fn values(&mut self, v: &[f32], these: Range<usize>, chunk: usize) {
        let (mut low, mut high) = (CHUNK, 0);
        for i in these.clone() {
            let sees = self.sees(i, chunk);
            (low, high) = (low.min(sees), high.max(sees));
        }
        let all = if low == high { low } else { low / self.tools.steps * self.tools.steps };
        self.values_of(v, these.clone(), 0..all, chunk > 0);
        for i in these {
            let sees = self.sees(i, chunk);
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
        let mut pairs = Rows([[0.0; CHUNK]; QUERIES]);
        let p = if steps == 1 {
            self.p.0[these].as_flattened()
        } else {
            for (from, to) in self.p.0[these].iter().zip(&mut pairs.0) {
                narrow(self.tools, from, &mut to[..CHUNK / 2]);
            }
            pairs.0.as_flattened()
        };
        let p = |first: usize| Left { at: &p[first..], row: CHUNK, step: 1 };
        // SAFETY: acc is [n, D] of these.
        unsafe {
            let v = Right::rows(&v[first * dim..], dim);
            product(self.tools, p(first), v, acc, dim, [n, dim, whole], load);
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
            let v = Right::rows(&last, dim);
            product(self.tools, p(first + whole), v, acc, dim, [n, dim, 1], load || whole > 0);
        }
    }
}

/// Scores -> probabilities relative to the new maximum; returns the factor of what was summed before.
#[inline(always)]
fn merge(s: &mut [f32; CHUNK], keys: usize, max: &mut f32, sum: &mut f32, scale: f32) -> f32 {
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
