//! Attention over pages: decode, and prefill of any chunking.
//!
//! A page of one kv head holds keys `[D, S]` (a chunk's keys side by side: lanes) and values `[S, D]`.

use super::super::pool::Shared;
use super::super::{Cpu, math, mm};
use super::tile::{self, Chunk, Tile};
use super::{Room, strides, tree};
use crate::ops::attn::{CHUNK, Heads};
use std::mem::MaybeUninit;

/// Row, position, table, columns of the table: where rows of a paged call live.
pub type Paged<'a> = (&'a [i32], &'a [i32], &'a [i32], usize);

/// Rows of a call whose runs one task takes, and the longest run that walks with lanes of keys.
const ROWS: usize = 8;

/// Scores of queries that walk together, `[query, key]`.
#[repr(align(64))]
struct Rows([[f32; CHUNK]; ROWS]);

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
    let (o, mm) = (Shared::new(o), mm::mm(cpu.isa));
    let call = Call { q, k_pages, v_pages, at, o, mm, heads };
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
    mm: mm::Mm,
    heads: Heads,
}

/// Queries that walk together: `n` of them `stride` apart from `first` on in q and o, the first seeing `keys` keys,
/// each next one `more` more; all end in the same chunk of the sequence in row `seq` of the table.
struct Walk {
    first: usize,
    stride: usize,
    n: usize,
    seq: usize,
    keys: usize,
    more: usize,
}

impl Call<'_> {
    /// The runs that start in rows `row..end`, of one kv head.
    #[inline(always)]
    fn rows(&self, row: usize, end: usize, kv: usize) {
        let (seq, pos, ..) = self.at;
        let (stride, dim, group) = (strides(self.heads).0, self.heads.dim, self.heads.q / self.heads.kv);
        for row in row..end {
            if self.continues(row) {
                continue;
            }
            let n = 1 + (row + 1..pos.len()).take_while(|row| self.continues(*row)).count();
            let (seq, keys, first) = (seq[row] as usize, pos[row] as usize + 1, row * stride + kv * group * dim);
            if n == 1 {
                // One row: its heads walk together.
                for head in (0..group).step_by(ROWS) {
                    let n = ROWS.min(group - head);
                    self.walk(Walk { first: first + head * dim, stride: dim, n, seq, keys, more: 0 }, kv);
                }
                continue;
            }
            for head in 0..group {
                let first = first + head * dim;
                if n > ROWS {
                    self.tile(Walk { first, stride, n, seq, keys, more: 1 }, kv);
                } else {
                    self.walk(Walk { first, stride, n, seq, keys, more: 1 }, kv);
                }
            }
        }
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

    /// A long run: lanes are its queries, as in packed sequences.
    #[inline(always)]
    fn tile(&self, w: Walk, kv: usize) {
        let (dim, (_, _, table, max_pages)) = (self.heads.dim, self.at);
        let lane = (w.keys - 1) % CHUNK;
        let start = w.keys - 1 - lane;
        let queries = Tile {
            q: &self.q[w.first..],
            stride: w.stride,
            start,
            lanes: lane..lane + w.n,
            dim,
            scale: self.heads.scale,
        };
        tile::walk(
            self.mm,
            queries,
            #[inline(always)]
            |chunk| {
                let page = page_at(table[w.seq * max_pages + chunk / CHUNK], kv, self.heads);
                let (k, v) = (&self.k_pages[page..][..dim * CHUNK], &self.v_pages[page..][..dim * CHUNK]);
                Chunk { k, k_row: 1, k_step: CHUNK, v, v_row: dim }
            },
            #[inline(always)]
            |at, acc, _, sum| {
                // SAFETY: no other task has this row and head.
                let o = unsafe { self.o.part(w.first + (at - lane) * w.stride, dim) };
                let inverse = 1.0 / sum;
                for (o, x) in o.iter_mut().zip(acc) {
                    *o = x * inverse;
                }
            },
        );
    }

    #[inline(always)]
    fn walk(&self, w: Walk, kv: usize) {
        let (dim, (_, _, table, max_pages)) = (self.heads.dim, self.at);
        let mut acc = Room(MaybeUninit::uninit());
        let acc = acc.zeroed(ROWS * dim);
        let mut s = Rows([[0.0; CHUNK]; ROWS]);
        let (mut max, mut sum) = ([f32::NEG_INFINITY; ROWS], [0f32; ROWS]);
        for chunk in (0..w.keys).step_by(CHUNK) {
            let page = page_at(table[w.seq * max_pages + chunk / CHUNK], kv, self.heads);
            let (k, v) = (&self.k_pages[page..][..dim * CHUNK], &self.v_pages[page..][..dim * CHUNK]);
            // SAFETY: n rows of q from `first` on, a page of keys, n rows of s.
            unsafe {
                let (q, s) = (self.q[w.first..].as_ptr(), s.0.as_mut_ptr().cast());
                (self.mm)(q, w.stride, 1, k.as_ptr(), CHUNK, s, CHUNK, w.n, CHUNK, dim, false);
            }
            for i in 0..w.n {
                let keys = CHUNK.min(w.keys + i * w.more - chunk);
                let shrink = merge(&mut s.0[i], keys, &mut max[i], &mut sum[i], self.heads.scale);
                if chunk > 0 && shrink != 1.0 {
                    acc[i * dim..][..dim].iter_mut().for_each(
                        #[inline(always)]
                        |x| *x *= shrink,
                    );
                }
            }
            self.add_values(&w, &s, v, acc, chunk);
        }
        for i in 0..w.n {
            // SAFETY: no other task has this row and head.
            let o = unsafe { self.o.part(w.first + i * w.stride, dim) };
            let inverse = 1.0 / sum[i];
            for d in 0..dim {
                o[d] = acc[i * dim + d] * inverse;
            }
        }
    }

    /// `acc[i] += p[i] v`, keys in order: those that all see together, then the rest row by row.
    #[inline(always)]
    fn add_values(&self, w: &Walk, p: &Rows, v: &[f32], acc: &mut [f32], chunk: usize) {
        let dim = self.heads.dim;
        let all = CHUNK.min(w.keys - chunk);
        let (p, v, acc) = (p.0.as_ptr().cast::<f32>(), v.as_ptr(), acc.as_mut_ptr());
        // SAFETY: p is [n, CHUNK], v a page of values, acc [n, D].
        unsafe {
            (self.mm)(p, CHUNK, 1, v, dim, acc, dim, w.n, dim, all, chunk > 0);
            for i in 1..w.n {
                let rest = CHUNK.min(w.keys + i * w.more - chunk) - all;
                if rest > 0 {
                    let (p, v) = (p.add(i * CHUNK + all), v.add(all * dim));
                    (self.mm)(p, CHUNK, 1, v, dim, acc.add(i * dim), dim, 1, dim, rest, true);
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
