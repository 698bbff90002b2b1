//! Attention of packed sequences.

use super::factors::Tools;
use super::places::{Keys, Place, n_slots, tile_at};
use super::tile::{Chunk, Tile, walk};
use super::{prefetch_rows, strides};
use crate::device::cpu::Cpu;
use crate::device::cpu::math;
use crate::device::cpu::pool::Shared;
use crate::device::cpu::rooms::{Parts, Room};
use crate::ops::attn::{CHUNK, Heads, Sequences};
use std::ops::Range;

/// See [`crate::ops::attn::attn_fwd`].
pub fn attn_fwd(
    cpu: &Cpu,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    seqs: Sequences,
    o: &mut [f32],
    lse: &mut [f32],
    heads: Heads,
) {
    let (o, lse) = (Shared::new(o), Shared::new(lse));
    let (tools, n_slots) = (Tools::of(cpu), n_slots(seqs));
    let group = heads.q / heads.kv;
    let together = tools.heads(group, heads.dim);
    let walks = group.div_ceil(together);
    let part = |task: usize| -> Option<Part> {
        let (slot, kv, first) = (task / (heads.kv * walks), task / walks % heads.kv, task % walks * together);
        let at = if slot < n_slots { tile_at(seqs, slot) } else { None };
        at.map(|at| (at, kv * group + first..kv * group + group.min(first + together)))
    };
    cpu.pool.run(n_slots * heads.kv * walks, |task| {
        if let Some(this) = part(task) {
            let mut room = Room::take();
            cpu.isa.run(
                #[inline(always)]
                || one_tile(tools, room.parts(), q, k, v, o, lse, this, part(task + 1), heads),
            )
        }
    });
}

/// A task's queries, and their heads.
type Part = (Place, Range<usize>);

/// All of a tile's queries of some heads of a group over all of their keys.
#[inline(always)]
fn one_tile(
    tools: Tools,
    mut room: Parts,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    o: Shared<f32>,
    lse: Shared<f32>,
    (place, these): Part,
    next: Option<Part>,
    heads: Heads,
) {
    let (dim, (q_stride, k_stride), seq) = (heads.dim, strides(heads), place.seq);
    let kv_of = |head: usize| head / (heads.q / heads.kv);
    let at = |row: usize| row * q_stride + these.start * dim;
    let fetch = |place: &Place, these: &Range<usize>| {
        let (row, rows) = (place.row(), place.lanes.len());
        prefetch_rows(q, row * q_stride + these.start * dim, q_stride, rows, these.len() * dim);
        for x in [k, v] {
            prefetch_rows(x, row * k_stride + kv_of(these.start) * dim, k_stride, rows, dim);
        }
    };
    let keys = |chunk: usize| Keys { seq, at: chunk, kv: kv_of(these.start), heads };
    let at_seam = keys(seq.prefix / CHUNK * CHUNK);
    let len = if at_seam.at_seam() { CHUNK * dim } else { 0 };
    let [k_seam, v_seam] = [k, v].map(|_| room.zeroed(len));
    if len > 0 {
        at_seam.gather(k, k_seam);
        at_seam.gather(v, v_seam);
    }
    let queries = Tile {
        q: &q[at(place.row())..],
        stride: q_stride,
        start: place.at,
        lanes: place.lanes.clone(),
        heads: these.len(),
        dim,
        scale: heads.scale,
    };
    walk(
        tools,
        &mut room,
        queries,
        #[inline(always)]
        |chunk| {
            if let (0, Some((next, heads))) = (chunk, &next) {
                fetch(next, heads);
            }
            let these = keys(chunk);
            if these.at_seam() {
                return Chunk::Rows { k: k_seam, v: v_seam, stride: dim };
            }
            let at = these.offset(0);
            Chunk::Rows { k: &k[at..], v: &v[at..], stride: k_stride }
        },
        #[inline(always)]
        |head, lane, acc, max, sum| {
            let row = seq.row(place.at + lane);
            // SAFETY: no other task has this row and head.
            let (o, lse) =
                unsafe { (o.part(at(row) + head * dim, dim), lse.part(row * heads.q + these.start + head, 1)) };
            let inverse = 1.0 / sum;
            for (o, x) in o.iter_mut().zip(acc) {
                *o = x * inverse;
            }
            lse[0] = max + math::ln(sum);
        },
    );
}
