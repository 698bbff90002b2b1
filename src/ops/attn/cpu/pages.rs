//! Attention over pages: decode, and prefill of any chunking. What a page holds: `append`.

use super::factors::{Tools, narrow};
use super::tile::{self, Chunk, Tile};
use super::walk::{QUERIES, Walk};
use super::{Paged, page_at, strides};
use crate::device::cpu::pool::Shared;
use crate::device::cpu::rooms::{Parts, Room};
use crate::device::cpu::{Cpu, math};
use crate::ops::attn::{CHUNK, Heads, SEGMENT};
use std::ops::Range;

/// The longest run that is no tile.
const SHORT: usize = 8;

/// See [`crate::ops::attn::attn_decode`].
pub fn attn_decode(cpu: &Cpu, q: &[f32], k_pages: &[f32], v_pages: &[f32], at: Paged, o: &mut [f32], heads: Heads) {
    let n = at.1.len();
    let (o, tools) = (Shared::new(o), Tools::of(cpu));
    let call = Call { q, k_pages, v_pages, at, o, tools, heads };
    // Rows of a task: as many as walk together, if there are enough for all threads.
    let rows = n.div_ceil(cpu.pool.threads()).clamp(1, (QUERIES * heads.kv / heads.q).max(1));
    cpu.pool.run(n.div_ceil(rows) * heads.kv, |task| {
        let (first, kv) = (task / heads.kv * rows, task % heads.kv);
        let mut room = Room::take();
        cpu.isa.run(
            #[inline(always)]
            || call.rows(&mut room, first, n.min(first + rows), kv),
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
    fn rows(&self, room: &mut Room, row: usize, end: usize, kv: usize) {
        let (seq, pos, ..) = self.at;
        let (stride, dim, group) = (strides(self.heads).0, self.heads.dim, self.heads.q / self.heads.kv);
        let together = self.tools.heads(group, dim);
        let (mut queries, mut n_queries) = ([Query::default(); QUERIES], 0);
        for row in row..end {
            if self.continues(row) {
                continue;
            }
            let n = 1 + (row + 1..pos.len()).take_while(|row| self.continues(*row)).count();
            if n > SHORT {
                for first in (0..group).step_by(together) {
                    self.tile(room.parts(), row, n, kv, first..group.min(first + together));
                }
                continue;
            }
            for i in 0..n * group {
                let (row, head) = (row + i / group, kv * group + i % group);
                let at = row * stride + head * dim;
                queries[n_queries] = Query { at, seq: seq[row] as usize, keys: pos[row] as usize + 1 };
                n_queries += 1;
                if n_queries == QUERIES {
                    self.walk(room.parts(), &queries, kv);
                    n_queries = 0;
                }
            }
        }
        self.walk(room.parts(), &queries[..n_queries], kv);
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
    fn tile(&self, mut room: Parts, row: usize, n: usize, kv: usize, these: Range<usize>) {
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
            &mut room,
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
    fn walk(&self, mut room: Parts, queries: &[Query], kv: usize) {
        let (dim, (_, _, table, max_pages)) = (self.heads.dim, self.at);
        let page = |query: &Query, chunk: usize| {
            let at = |page| page_at(self.tools, page, kv, self.heads);
            (query.keys > chunk).then(|| at(table[query.seq * max_pages + chunk / CHUNK]))
        };
        let len = self.tools.elements(dim);
        let longest = queries.iter().map(|query| query.keys).max().unwrap_or(0);
        let n_total = if longest > SEGMENT { dim } else { 0 };
        let [q, acc, total] = [len, dim, n_total].map(|len| room.zeroed(queries.len() * len));
        for (query, to) in queries.iter().zip(q.chunks_exact_mut(len)) {
            let from = &self.q[query.at..][..dim];
            if self.tools.steps == 1 { to.copy_from_slice(from) } else { narrow(self.tools, from, to) }
        }
        let mut walk = Walk::new(self.tools, q, [acc, total], queries.len(), self.heads);
        for chunk in (0..longest).step_by(CHUNK) {
            let gathered = !chunk.is_multiple_of(SEGMENT);
            if chunk > 0 && !gathered {
                let go_on = queries.iter().enumerate().filter(|(_, query)| query.keys > chunk);
                go_on.for_each(|(i, _)| walk.end_segment(i, chunk == SEGMENT));
            }
            // Who reads which page: every query of a group sees some of it.
            let (mut groups, mut n_groups, mut next) = ([(0, 0, 0); QUERIES], 0, 0);
            while next < queries.len() {
                let (i, at) = (next, page(&queries[next], chunk));
                next = i + queries[i..].iter().take_while(|query| page(query, chunk) == at).count();
                if let Some(at) = at {
                    groups[n_groups] = (i, next, at);
                    n_groups += 1;
                }
            }
            for (i, query) in queries.iter().enumerate() {
                walk.sees[i] = query.keys.saturating_sub(chunk).min(CHUNK) as i32;
            }
            // No stream of reads leads from page to page: values are fetched while keys are multiplied, the next keys
            // while values are.
            for &(first, end, at) in &groups[..n_groups] {
                math::prefetch(self.page(at).1);
                walk.scores(self.page(at).0, first..end);
            }
            walk.merge(gathered);
            for &(first, end, at) in &groups[..n_groups] {
                if let Some(at) = page(&queries[first], chunk + CHUNK) {
                    math::prefetch(self.page(at).0);
                }
                walk.values(self.page(at).1, first..end, gathered);
            }
        }
        for (i, query) in queries.iter().enumerate() {
            let (acc, sum) = walk.end(i, query.keys);
            self.store(query.at, acc, sum);
        }
    }
}
