//! The gradients of attention.
//!
//! `p = exp(scale q k - lse)`, `dp = do v`, `delta = sum_d o do`, `ds = p (dp - delta) scale`; then
//! `dv = p^T do`, `dk = ds^T q`, `dq = ds k`. One task has one kv head of one family: the stem, then the sequences on it,
//! of each query tiles ascending, heads of the group ascending, chunks ascending, so every sum has one order.
//! Source: arXiv:2205.14135, appendix B.

use super::factors::{HEADS, Tools, by_rows, by_steps, columns, pair_turned, panels_len, turn};
use super::operands::{Left, Right};
use super::places::{Keys, Place};
use super::products::{over_keys, over_queries, scores};
use super::{Queries, Scores, prefetch_rows, strides};
use crate::device::cpu::pool::Shared;
use crate::device::cpu::rooms::{Parts, Room};
use crate::device::cpu::{Cpu, math};
use crate::ops::attn::{CHUNK, Heads, Sequence, Sequences};
use std::ops::Range;

/// See [`crate::ops::attn::attn_bwd`].
pub fn attn_bwd(
    cpu: &Cpu,
    d_o: &[f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    o: &[f32],
    lse: &[f32],
    seqs: Sequences,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    heads: Heads,
) {
    let (dq, dk, dv) = (Shared::new(dq), Shared::new(dk), Shared::new(dv));
    let call = Call { d_o, q, k, v, o, lse, dq, dk, dv, tools: Tools::of(cpu), heads };
    cpu.pool.run(seqs.len() * heads.kv, |task| {
        let (stem, kv) = (task / heads.kv, task % heads.kv);
        if seqs.at(stem).prefix > 0 {
            return; // of the family of another
        }
        let mut room = Room::take();
        cpu.isa.run(
            #[inline(always)]
            || call.family(room.parts(), seqs.family(stem), !seqs.prefixes.is_empty(), kv),
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

/// Room for what a task makes of its inputs; heads side by side, `[heads, ...]`.
struct Rooms<'a> {
    /// Queries and do turned, `[elements(D), CHUNK]`.
    qt: &'a mut [f32],
    dot: &'a mut [f32],
    /// o of one head turned, `[D, CHUNK]`.
    ot: &'a mut [f32],
    /// Queries and do as right factors over rows.
    q: &'a mut [f32],
    d_o: &'a mut [f32],
    /// Keys and values of a chunk as left factors, and keys as a right one.
    k: &'a mut [f32],
    v: &'a mut [f32],
    k_steps: &'a mut [f32],
    /// k, v, dk and dv of the chunk at a seam, `[CHUNK, D]`.
    seam: [&'a mut [f32]; 4],
    /// A tile's rows of queries and do where it begins inside a chunk, `[CHUNK, D]`.
    q_rows: &'a mut [f32],
    d_o_rows: &'a mut [f32],
    lse: [Queries; HEADS],
    delta: [Queries; HEADS],
}

/// p and ds of a chunk and a tile, `[key, query]`, and room for their pairs.
struct Part<'a> {
    p: Scores,
    ds: Scores,
    pairs: &'a mut [f32],
}

/// A tile: its queries, its kv head, and the query heads that walk together.
struct Tile {
    place: Place,
    kv: usize,
    these: Range<usize>,
}

/// A chunk of keys: their elements, where their gradients are summed, from a key to the next.
struct ChunkAt<'a> {
    k: &'a [f32],
    v: &'a [f32],
    dk: *mut f32,
    dv: *mut f32,
    stride: usize,
}

impl Call<'_> {
    #[inline(always)]
    fn family(&self, mut room: Parts, family: impl Iterator<Item = Sequence>, shares: bool, kv: usize) {
        let (dim, group) = (self.heads.dim, self.heads.q / self.heads.kv);
        let together = self.tools.heads(group, dim);
        let (floats, panels) = (CHUNK * dim, panels_len(dim));
        let pairs = (self.tools.steps - 1) * self.tools.elements(dim) * CHUNK;
        let inside = shares as usize * floats;
        let mut rooms = Rooms {
            qt: room.zeroed(together * floats),
            dot: room.zeroed(together * floats),
            ot: room.zeroed(floats),
            q: room.zeroed(together * panels),
            d_o: room.zeroed(together * panels),
            k: room.zeroed(pairs),
            v: room.zeroed(pairs),
            k_steps: room.zeroed(panels),
            seam: [inside; 4].map(|len| room.zeroed(len)),
            q_rows: room.zeroed(together * inside),
            d_o_rows: room.zeroed(together * inside),
            lse: [Queries([0.0; CHUNK]); HEADS],
            delta: [Queries([0.0; CHUNK]); HEADS],
        };
        let zero = Scores([[0.0; CHUNK]; CHUNK]);
        let mut part = Part { p: zero, ds: zero, pairs: room.zeroed(CHUNK * CHUNK / 2) };
        for seq in family {
            for at in (seq.prefix / CHUNK * CHUNK..seq.len()).step_by(CHUNK) {
                let Some(place) = Place::of(seq, at) else { continue };
                for first in (kv * group..(kv + 1) * group).step_by(together) {
                    let these = first..(kv * group + group).min(first + together);
                    self.tile(&mut rooms, &mut part, Tile { place: place.clone(), kv, these });
                }
            }
        }
    }

    /// One tile over all of its keys.
    #[inline(always)]
    fn tile(&self, rooms: &mut Rooms, part: &mut Part, t: Tile) {
        let (tools, heads, dim, q_stride) = (self.tools, self.heads, self.heads.dim, strides(self.heads).0);
        let (floats, panels, n) = (CHUNK * dim, panels_len(dim), t.these.len());
        let (seq, lanes, row) = (t.place.seq, t.place.lanes.clone(), t.place.row());
        let at = |head: usize| row * q_stride + (t.these.start + head) * dim;
        self.open(rooms, &t);
        let (mut q, mut d_o) = ([Right::rows(&[], 0); HEADS], [Right::rows(&[], 0); HEADS]);
        let (q_rooms, d_o_rooms) = (rooms.q.chunks_exact_mut(panels), rooms.d_o.chunks_exact_mut(panels));
        let (mut q_rows, mut d_o_rows) =
            (rooms.q_rows.chunks_exact_mut(floats), rooms.d_o_rows.chunks_exact_mut(floats));
        for (head, (q_room, d_o_room)) in q_rooms.zip(d_o_rooms).take(n).enumerate() {
            let (q_rows, d_o_rows) = (q_rows.next().unwrap_or_default(), d_o_rows.next().unwrap_or_default());
            q[head] = queries(tools, &self.q[at(head)..], q_stride, lanes.clone(), dim, q_rows, q_room);
            d_o[head] = queries(tools, &self.d_o[at(head)..], q_stride, lanes.clone(), dim, d_o_rows, d_o_room);
        }
        self.fetch_next(&t);
        let first_head = t.kv * (heads.q / heads.kv);
        for chunk in (0..=t.place.at).step_by(CHUNK) {
            let diagonal = chunk == t.place.at;
            let keys = if diagonal { lanes.end } else { CHUNK };
            let these = Keys { seq, at: chunk, kv: t.kv, heads };
            let at_seam = these.at_seam();
            let c = self.chunk_at(&mut rooms.seam, these, keys, diagonal && t.these.start == first_head);
            let k_steps = by_steps(tools, c.k, c.stride, keys, dim, rooms.k_steps);
            let k = by_rows(tools, c.k, c.stride, keys, dim, rooms.k);
            let v = by_rows(tools, c.v, c.stride, keys, dim, rooms.v);
            for head in 0..n {
                let here = head * floats..(head + 1) * floats;
                let (qt, dot) = (Right::rows(&rooms.qt[here.clone()], CHUNK), Right::rows(&rooms.dot[here], CHUNK));
                let (lse, delta) = (&rooms.lse[head], &rooms.delta[head]);
                self.scores(part, k, v, qt, dot, lse, delta, keys, diagonal);
                let first = diagonal && !at_seam && t.these.start + head == first_head;
                // SAFETY: `keys` rows of dk and dv (`chunk_at`), which no other task has.
                unsafe { self.key_gradients(part, q[head], d_o[head], &c, lanes.end, keys, first, diagonal) };
                let ds = columns(tools, &part.ds, keys, part.pairs);
                assert!(at(head) + (lanes.len() - 1) * q_stride + dim <= self.dq.len(), "queries of a tile");
                // SAFETY: rows of dq of this sequence and head (above), which no other task has.
                unsafe {
                    let dq = self.dq.ptr().add(at(head));
                    over_keys(tools, ds, k_steps, dq, q_stride, lanes.clone(), [keys, dim], chunk > 0, diagonal);
                }
            }
            if at_seam {
                let [_, _, dk, dv] = &rooms.seam;
                // SAFETY: rows of this family and kv head, which no other task has.
                unsafe { these.scatter_sums(dk, keys, self.dk) };
                // SAFETY: as above.
                unsafe { these.scatter_sums(dv, keys, self.dv) };
            }
        }
    }

    /// A chunk's keys and values, and where the gradients of the first `keys` are summed: in a room where it lies at a seam
    /// (`opens`: for its own keys nothing was yet), else in place.
    #[inline(always)]
    fn chunk_at<'a>(&'a self, seam: &'a mut [&mut [f32]; 4], these: Keys, keys: usize, opens: bool) -> ChunkAt<'a> {
        let (dim, stride) = (self.heads.dim, strides(self.heads).1);
        if these.at_seam() {
            let [k, v, dk, dv] = seam;
            these.gather(self.k, k);
            these.gather(self.v, v);
            // SAFETY: rows of this family and kv head, which no other task has.
            unsafe { these.gather_sums(self.dk, opens, dk) };
            // SAFETY: as above.
            unsafe { these.gather_sums(self.dv, opens, dv) };
            return ChunkAt { k, v, dk: dk.as_mut_ptr(), dv: dv.as_mut_ptr(), stride: dim };
        }
        let at = these.offset(0);
        assert!(at + (keys - 1) * stride + dim <= self.dk.len(), "keys of a chunk");
        // SAFETY: inside both (above, and they are as long as each other).
        let (dk, dv) = unsafe { (self.dk.ptr().add(at), self.dv.ptr().add(at)) };
        ChunkAt { k: &self.k[at..], v: &self.v[at..], dk, dv, stride }
    }

    /// Asks for what the next tile reads first.
    #[inline(always)]
    fn fetch_next(&self, t: &Tile) {
        let (dim, (q_stride, k_stride)) = (self.heads.dim, strides(self.heads));
        let (row, q_at, k_at) = (t.place.row() + t.place.lanes.len(), t.these.start * dim, t.kv * dim);
        let rows = CHUNK.min(self.lse.len() / self.heads.q - row);
        for x in [self.q, self.d_o, self.o] {
            prefetch_rows(x, row * q_stride + q_at, q_stride, rows, t.these.len() * dim);
        }
        for x in [self.k, self.v] {
            prefetch_rows(x, row * k_stride + k_at, k_stride, rows, dim);
        }
    }

    /// What the tile needs of its queries. Lanes without one: a probability of 1, that nothing is made of.
    #[inline(always)]
    fn open(&self, rooms: &mut Rooms, t: &Tile) {
        let (tools, dim, stride) = (self.tools, self.heads.dim, strides(self.heads).0);
        for (i, head) in t.these.clone().enumerate() {
            let (lanes, row) = (t.place.lanes.clone(), t.place.row());
            let (at, room) = (row * stride + head * dim, i * CHUNK * dim..(i + 1) * CHUNK * dim);
            let (qt, dot) = (&mut rooms.qt[room.clone()], &mut rooms.dot[room]);
            for (from, to) in [(self.q, &mut *qt), (self.d_o, dot), (self.o, rooms.ot)] {
                turn(tools, &from[at..], stride, lanes.clone(), dim, to);
            }
            let (mut lse, mut delta) = (Queries([0.0; CHUNK]), Queries([0.0; CHUNK]));
            for (lane, row) in lanes.zip(row..) {
                lse.0[lane] = self.lse[row * self.heads.q + head];
            }
            for (o, d_o) in rooms.ot.as_chunks::<CHUNK>().0.iter().zip(dot.as_chunks::<CHUNK>().0) {
                for i in 0..CHUNK {
                    delta.0[i] = o[i].mul_add(d_o[i], delta.0[i]);
                }
            }
            (rooms.lse[i], rooms.delta[i]) = (lse, delta);
            pair_turned(tools, qt, dim);
            pair_turned(tools, dot, dim);
        }
    }

    /// p and ds of a chunk.
    #[inline(always)]
    fn scores(
        &self,
        part: &mut Part,
        k: Left,
        v: Left,
        qt: Right,
        dot: Right,
        lse: &Queries,
        delta: &Queries,
        keys: usize,
        diagonal: bool,
    ) {
        let (tools, scale) = (self.tools, self.heads.scale);
        scores(tools, k, qt, &mut part.p, keys, self.heads.dim, diagonal);
        scores(tools, v, dot, &mut part.ds, keys, self.heads.dim, diagonal);
        if diagonal {
            probabilities::<true>(part, lse, delta, keys, scale);
        } else {
            probabilities::<false>(part, lse, delta, keys, scale);
        }
    }

    /// Adds to dv and dk of the chunk (`first`: sets them).
    ///
    /// # Safety
    /// `keys` rows of dk and dv are valid to read and write, by this thread alone.
    #[inline(always)]
    unsafe fn key_gradients(
        &self,
        part: &mut Part,
        q: Right,
        d_o: Right,
        c: &ChunkAt,
        rows: usize,
        keys: usize,
        first: bool,
        diagonal: bool,
    ) {
        let (tools, dim) = (self.tools, self.heads.dim);
        for (x, right, to) in [(&part.p, d_o, c.dv), (&part.ds, q, c.dk)] {
            let x = by_rows(tools, x.0.as_flattened(), CHUNK, keys, CHUNK, part.pairs);
            // SAFETY: the caller's promise.
            unsafe { over_queries(tools, x, right, to, c.stride, [keys, rows, dim], !first, diagonal) };
        }
    }
}

/// A tile's rows of one head as a right factor over lanes. Where it begins inside a chunk, the lanes before it are zeros, and
/// `rows` holds them all.
#[inline(always)]
fn queries<'a>(
    tools: Tools,
    from: &'a [f32],
    stride: usize,
    lanes: Range<usize>,
    dim: usize,
    rows: &'a mut [f32],
    room: &'a mut [f32],
) -> Right<'a> {
    if lanes.start == 0 {
        return by_steps(tools, from, stride, lanes.end, dim, room);
    }
    rows[..lanes.start * dim].fill(0.0);
    for (i, to) in rows[lanes.start * dim..lanes.end * dim].chunks_exact_mut(dim).enumerate() {
        to.copy_from_slice(&from[i * stride..][..dim]);
    }
    by_steps(tools, rows, dim, lanes.end, dim, room)
}

/// Scores and dp -> p and ds. On the diagonal, query i sees keys up to i; what no query of a half sees, nothing reads.
#[inline(always)]
fn probabilities<const DIAGONAL: bool>(part: &mut Part, lse: &Queries, delta: &Queries, keys: usize, scale: f32) {
    const HALF: usize = CHUNK / 2;
    for j in 0..keys {
        let (p, ds) = (&mut part.p.0[j], &mut part.ds.0[j]);
        let first = if DIAGONAL && j >= HALF { HALF } else { 0 };
        for i in first..CHUNK {
            let x = p[i] * scale - lse.0[i];
            p[i] = math::exp(if DIAGONAL && j > i { f32::NEG_INFINITY } else { x });
            ds[i] = p[i] * (ds[i] - delta.0[i]) * scale;
        }
    }
}
