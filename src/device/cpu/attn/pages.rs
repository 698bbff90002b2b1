//! Attention over pages: decode, and prefill of any chunking.
//!
//! A page of one kv head holds keys `[D, S]` (a chunk's keys side by side: lanes) and values `[S, D]`.

use super::super::pool::Shared;
use super::super::{Cpu, math};
use super::tile::{self, Chunk, Tile};
use super::{Room, Tools, strides, tree};
use crate::ops::attn::{CHUNK, Heads};
use std::mem::MaybeUninit;

/// Row, position, table, columns of the table: where rows of a paged call live.
pub type Paged<'a> = (&'a [i32], &'a [i32], &'a [i32], usize);

/// Rows of a call whose runs one task takes, and the longest run that walks with lanes of keys.
const ROWS: usize = 8;

/// Queries that walk together at most.
const QUERIES: usize = 16;

/// Scores of queries that walk together, `[query, key]`.
#[repr(align(64))]
struct Rows([[f32; CHUNK]; QUERIES]);

/// Offset of (page, kv head).
fn page_at(page: i32, kv: usize, heads: Heads) -> usize {
    (page as usize * heads.kv + kv) * heads.dim * CHUNK
}

/// See [`crate::ops::attn::kv_append`].
pub fn kv_append(cpu: &Cpu, k: &[f32], v: &[f32], at: Paged, k_pages: &mut [f32], v_pages: &mut [f32], heads: Heads) {
    let (seq, pos, table, max_pages) = at;
    let d = heads.dim;
    let (k_pages, v_pages) = (Shared::new(k_pages), Shared::new(v_pages));
    let append = |row: usize| {
        let (page, slot) = (pos[row] as usize / CHUNK, pos[row] as usize % CHUNK);
        let page = table[seq[row] as usize * max_pages + page];
        for kv in 0..heads.kv {
            let (to, from) = (page_at(page, kv, heads), (row * heads.kv + kv) * d);
            // SAFETY: rows of a call are different positions, so no other task writes this slot.
            unsafe {
                for i in 0..d {
                    k_pages.part(to + i * CHUNK + slot, 1)[0] = k[from + i];
                }
                v_pages.part(to + slot * d, d).copy_from_slice(&v[from..][..d]);
            }
        }
    };
    const TASK: usize = 32;
    let n = pos.len();
    cpu.pool.run(n.div_ceil(TASK), |task| (task * TASK..n.min((task + 1) * TASK)).for_each(append));
}

/// See [`crate::ops::attn::attn_decode`].
pub fn attn_decode(cpu: &Cpu, q: &[f32], k_pages: &[f32], v_pages: &[f32], at: Paged, o: &mut [f32], heads: Heads) {
    let n = at.1.len();
    let (o, tools) = (Shared::new(o), Tools::of(cpu.isa));
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
        let (mut queries, mut n_queries) = ([Query::default(); QUERIES], 0);
        for row in row..end {
            if self.continues(row) {
                continue;
            }
            let n = 1 + (row + 1..pos.len()).take_while(|row| self.continues(*row)).count();
            if n > ROWS {
                for head in kv * group..(kv + 1) * group {
                    self.tile(row, n, head);
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

    /// A long run of `n` rows, one head: lanes are its queries, as in packed sequences.
    #[inline(always)]
    fn tile(&self, row: usize, n: usize, head: usize) {
        let (dim, stride, (seq, pos, table, max_pages)) = (self.heads.dim, strides(self.heads).0, self.at);
        let (pages, kv) = (&table[seq[row] as usize * max_pages..], head / (self.heads.q / self.heads.kv));
        let (first, lane) = (row * stride + head * dim, pos[row] as usize % CHUNK);
        let queries = Tile {
            q: &self.q[first..],
            stride,
            start: pos[row] as usize - lane,
            lanes: lane..lane + n,
            dim,
            scale: self.heads.scale,
        };
        tile::walk(
            self.tools,
            queries,
            #[inline(always)]
            |chunk| {
                let (k, v) = self.page(page_at(pages[chunk / CHUNK], kv, self.heads));
                Chunk { k, k_row: 1, k_step: CHUNK, v, v_row: dim }
            },
            #[inline(always)]
            |at, acc, _, sum| self.store(first + (at - lane) * stride, acc, sum),
        );
    }

    /// Keys `[D, S]` and values `[S, D]` of a page of one kv head.
    #[inline(always)]
    fn page(&self, at: usize) -> (&[f32], &[f32]) {
        let len = self.heads.dim * CHUNK;
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
            (query.keys > chunk).then(|| page_at(table[query.seq * max_pages + chunk / CHUNK], kv, self.heads))
        };
        let (mut q, mut acc) = (Room(MaybeUninit::uninit()), Room(MaybeUninit::uninit()));
        let (q, acc) = (q.zeroed(queries.len() * dim), acc.zeroed(queries.len() * dim));
        for (query, to) in queries.iter().zip(q.chunks_exact_mut(dim)) {
            to.copy_from_slice(&self.q[query.at..][..dim]);
        }
        let (mut max, mut sum) = ([f32::NEG_INFINITY; QUERIES], [0f32; QUERIES]);
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
                let together = i..next;
                self.chunk(
                    self.page(at),
                    &queries[together.clone()],
                    &q[i * dim..next * dim],
                    &mut acc[i * dim..next * dim],
                    &mut max[together.clone()],
                    &mut sum[together],
                    chunk,
                );
            }
        }
        for (i, query) in queries.iter().enumerate() {
            self.store(query.at, &acc[i * dim..][..dim], sum[i]);
        }
    }

    /// One chunk of keys and values for the queries that read its page.
    #[inline(always)]
    fn chunk(
        &self,
        (k, v): (&[f32], &[f32]),
        queries: &[Query],
        q: &[f32],
        acc: &mut [f32],
        max: &mut [f32],
        sum: &mut [f32],
        chunk: usize,
    ) {
        let (n, dim) = (queries.len(), self.heads.dim);
        let mut p = Rows([[0.0; CHUNK]; QUERIES]);
        let sees = |i: usize| CHUNK.min(queries[i].keys - chunk);
        // SAFETY: q is [n, D], a page of keys [D, CHUNK], p holds n rows.
        unsafe {
            let p = p.0.as_mut_ptr().cast();
            (self.tools.mm)(q.as_ptr(), dim, 1, k.as_ptr(), CHUNK, p, CHUNK, n, CHUNK, dim, false);
        }
        let mut all = CHUNK;
        for i in 0..n {
            let shrink = merge(&mut p.0[i], sees(i), &mut max[i], &mut sum[i], self.heads.scale);
            if chunk > 0 && shrink != 1.0 {
                acc[i * dim..][..dim].iter_mut().for_each(
                    #[inline(always)]
                    |x| *x *= shrink,
                );
            }
            all = all.min(sees(i));
        }
        // `acc[i] += p[i] v`, keys in order: those that all see, then the rest row by row.
        let (p, v, acc) = (p.0.as_ptr().cast::<f32>(), v.as_ptr(), acc.as_mut_ptr());
        // SAFETY: p is [n, CHUNK], v a page of values, acc [n, D].
        unsafe {
            (self.tools.mm)(p, CHUNK, 1, v, dim, acc, dim, n, dim, all, chunk > 0);
            for i in 0..n {
                let rest = sees(i) - all;
                if rest > 0 {
                    let (p, v) = (p.add(i * CHUNK + all), v.add(all * dim));
                    (self.tools.mm)(p, CHUNK, 1, v, dim, acc.add(i * dim), dim, 1, dim, rest, true);
                }
            }
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
