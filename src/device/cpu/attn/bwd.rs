//! The gradients of attention.
//!
//! `p = exp(scale q k - lse)`, `dp = do v`, `delta = sum_d o do`, `ds = p (dp - delta) scale`; then
//! `dv = p^T do`, `dk = ds^T q`, `dq = ds k`. One task has one kv head of one sequence: query tiles ascending, heads
//! of the group ascending, chunks ascending, so every sum has one order. Source: arXiv:2205.14135, appendix B.

use super::super::pool::Shared;
use super::super::{Cpu, math};
use super::{Queries, Room, Scores, Tools, strides, turn};
use crate::ops::attn::{CHUNK, Heads};
use std::mem::MaybeUninit;

/// See [`crate::ops::attn::attn_bwd`].
pub fn attn_bwd(
    cpu: &Cpu,
    d_o: &[f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    o: &[f32],
    lse: &[f32],
    cu: &[i32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    heads: Heads,
) {
    let (dq, dk, dv) = (Shared::new(dq), Shared::new(dk), Shared::new(dv));
    let call = Call { d_o, q, k, v, o, lse, dq, dk, dv, tools: Tools::of(cpu.isa), heads };
    cpu.pool.run((cu.len() - 1) * heads.kv, |task| {
        let (seq, kv) = (task / heads.kv, task % heads.kv);
        let (start, end) = (cu[seq] as usize, cu[seq + 1] as usize);
        cpu.isa.run(
            #[inline(always)]
            || call.sequence(start, end - start, kv),
        )
    });
}

struct Call<'a> {
    d_o: &'a [f32],
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    o: &'a [f32],
    lse: &'a [f32],
    dq: Shared<f32>,
    dk: Shared<f32>,
    dv: Shared<f32>,
    tools: Tools,
    heads: Heads,
}

/// A tile's queries of one head.
struct Part<'a> {
    /// q, do and o turned, `[D, CHUNK]`.
    qt: &'a mut [f32],
    dot: &'a mut [f32],
    ot: &'a mut [f32],
    /// `[CHUNK, D]`
    dq: &'a mut [f32],
    lse: Queries,
    delta: Queries,
    p: Scores,
    ds: Scores,
}

impl Call<'_> {
    #[inline(always)]
    fn sequence(&self, start: usize, len: usize, kv: usize) {
        let (dim, (q_stride, k_stride)) = (self.heads.dim, strides(self.heads));
        let group = self.heads.q / self.heads.kv;
        let mut rooms = [const { Room(MaybeUninit::uninit()) }; 4];
        let [qt, dot, ot, dq] = rooms.each_mut().map(|room| room.zeroed(CHUNK * dim));
        let mut part = Part {
            qt,
            dot,
            ot,
            dq,
            lse: Queries([0.0; CHUNK]),
            delta: Queries([0.0; CHUNK]),
            p: Scores([[0.0; CHUNK]; CHUNK]),
            ds: Scores([[0.0; CHUNK]; CHUNK]),
        };
        for tile in (0..len).step_by(CHUNK) {
            let (row, rows) = (start + tile, CHUNK.min(len - tile));
            for head in kv * group..(kv + 1) * group {
                let at = row * q_stride + head * dim;
                self.open(&mut part, row, head, rows);
                for chunk in (0..=tile).step_by(CHUNK) {
                    let keys = if chunk == tile { rows } else { CHUNK };
                    let key_at = (start + chunk) * k_stride + kv * dim;
                    self.scores(&mut part, key_at, keys, chunk == tile);
                    let first = chunk == tile && head == kv * group;
                    self.gradients(&mut part, at, key_at, rows, keys, chunk == 0, first);
                }
                for i in 0..rows {
                    // SAFETY: no other task has this sequence and head.
                    let dq = unsafe { self.dq.part(at + i * q_stride, dim) };
                    dq.copy_from_slice(&part.dq[i * dim..][..dim]);
                }
            }
        }
    }

    /// What the tile needs of its queries.
    #[inline(always)]
    fn open(&self, part: &mut Part, row: usize, head: usize, rows: usize) {
        let (dim, stride) = (self.heads.dim, strides(self.heads).0);
        let at = row * stride + head * dim;
        for (from, to) in [(self.q, &mut *part.qt), (self.d_o, part.dot), (self.o, part.ot)] {
            turn(self.tools, &from[at..], stride, 0..rows, dim, to);
        }
        for i in 0..rows {
            part.lse.0[i] = self.lse[(row + i) * self.heads.q + head];
        }
        part.delta = Queries([0.0; CHUNK]);
        for (o, d_o) in part.ot.as_chunks::<CHUNK>().0.iter().zip(part.dot.as_chunks::<CHUNK>().0) {
            for i in 0..CHUNK {
                part.delta.0[i] = o[i].mul_add(d_o[i], part.delta.0[i]);
            }
        }
    }

    /// p and ds of a chunk, `[key, query]`.
    #[inline(always)]
    fn scores(&self, part: &mut Part, key_at: usize, keys: usize, diagonal: bool) {
        let (dim, stride, scale) = (self.heads.dim, strides(self.heads).1, self.heads.scale);
        let (k, v) = (self.k[key_at..].as_ptr(), self.v[key_at..].as_ptr());
        // SAFETY: `keys` rows of k and v from `key_at` on; qt and dot are [D, CHUNK], p and ds [CHUNK, CHUNK].
        unsafe {
            let (p, ds) = (part.p.0.as_mut_ptr().cast(), part.ds.0.as_mut_ptr().cast());
            (self.tools.mm)(k, stride, 1, part.qt.as_ptr(), CHUNK, p, CHUNK, keys, CHUNK, dim, false);
            (self.tools.mm)(v, stride, 1, part.dot.as_ptr(), CHUNK, ds, CHUNK, keys, CHUNK, dim, false);
        }
        for j in 0..keys {
            for i in 0..CHUNK {
                let x = part.p.0[j][i] * scale - part.lse.0[i];
                let x = if diagonal && j > i { f32::NEG_INFINITY } else { x };
                let p = math::exp(x);
                part.p.0[j][i] = p;
                part.ds.0[j][i] = p * (part.ds.0[j][i] - part.delta.0[i]) * scale;
            }
        }
    }

    /// Adds to dv and dk of the chunk (`first`: sets them) and to dq of the tile (`new`: sets it).
    #[inline(always)]
    fn gradients(&self, part: &mut Part, at: usize, key_at: usize, rows: usize, keys: usize, new: bool, first: bool) {
        let (dim, (q_stride, k_stride)) = (self.heads.dim, strides(self.heads));
        let (p, ds) = (part.p.0.as_ptr().cast(), part.ds.0.as_ptr().cast());
        // SAFETY: `rows` rows of do and q from `at` on, `keys` rows of k, dk, dv from `key_at` on, which no other task
        // has; dq of the tile is [CHUNK, D].
        unsafe {
            let (d_o, q, k) = (self.d_o[at..].as_ptr(), self.q[at..].as_ptr(), self.k[key_at..].as_ptr());
            let (dv, dk) = (self.dv.ptr().add(key_at), self.dk.ptr().add(key_at));
            (self.tools.mm)(p, CHUNK, 1, d_o, q_stride, dv, k_stride, keys, dim, rows, !first);
            (self.tools.mm)(ds, CHUNK, 1, q, q_stride, dk, k_stride, keys, dim, rows, !first);
            (self.tools.mm)(ds, 1, CHUNK, k, k_stride, part.dq.as_mut_ptr(), dim, rows, dim, keys, !new);
        }
    }
}
