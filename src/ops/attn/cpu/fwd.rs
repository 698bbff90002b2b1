//! Attention of packed sequences.

use super::factors::Tools;
use super::tile::{Chunk, Tile, walk};
use super::{n_slots, prefetch_rows, strides, tile_at};
use crate::device::cpu::Cpu;
use crate::device::cpu::math;
use crate::device::cpu::pool::Shared;
use crate::ops::attn::Heads;
use std::ops::Range;

/// See [`crate::ops::attn::attn_fwd`].
pub fn attn_fwd(cpu: &Cpu, q: &[f32], k: &[f32], v: &[f32], cu: &[i32], o: &mut [f32], lse: &mut [f32], heads: Heads) {
    let (o, lse) = (Shared::new(o), Shared::new(lse));
    let (tools, n_slots) = (Tools::of(cpu), n_slots(cu));
    let group = heads.q / heads.kv;
    let together = tools.heads(group, heads.dim);
    let walks = group.div_ceil(together);
    let part = |task: usize| -> Option<Part> {
        let (slot, kv, first) = (task / (heads.kv * walks), task / walks % heads.kv, task % walks * together);
        let at = if slot < n_slots { tile_at(cu, slot) } else { None };
        at.map(|at| (at, kv * group + first..kv * group + group.min(first + together)))
    };
    cpu.pool.run(n_slots * heads.kv * walks, |task| {
        if let Some(this) = part(task) {
            cpu.isa.run(
                #[inline(always)]
                || one_tile(tools, q, k, v, o, lse, this, part(task + 1), heads),
            )
        }
    });
}

/// Where a task's queries lie: the first row of their sequence, their first row in it, their rows; and their heads.
type Part = ((usize, usize, usize), Range<usize>);

/// All of a tile's queries of some heads of a group over all of their keys.
#[inline(always)]
fn one_tile(
    tools: Tools,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    o: Shared<f32>,
    lse: Shared<f32>,
    ((start, tile, rows), these): Part,
    next: Option<Part>,
    heads: Heads,
) {
    let (dim, (q_stride, k_stride)) = (heads.dim, strides(heads));
    let kv_at = |head: usize| head / (heads.q / heads.kv) * dim;
    let at = |row: usize| row * q_stride + these.start * dim;
    let fetch = |(start, tile, rows): (usize, usize, usize), these: Range<usize>| {
        let row = start + tile;
        prefetch_rows(q, row * q_stride + these.start * dim, q_stride, rows, these.len() * dim);
        for x in [k, v] {
            prefetch_rows(x, row * k_stride + kv_at(these.start), k_stride, rows, dim);
        }
    };
    let queries = Tile {
        q: &q[at(start + tile)..],
        stride: q_stride,
        start: tile,
        lanes: 0..rows,
        heads: these.len(),
        dim,
        scale: heads.scale,
    };
    walk(
        tools,
        queries,
        #[inline(always)]
        |chunk| {
            if let (0, Some((next, heads))) = (chunk, &next) {
                fetch(*next, heads.clone());
            }
            let at = (start + chunk) * k_stride + kv_at(these.start);
            Chunk::Rows { k: &k[at..], v: &v[at..], stride: k_stride }
        },
        #[inline(always)]
        |head, lane, acc, max, sum| {
            let row = start + tile + lane;
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
