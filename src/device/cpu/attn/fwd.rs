//! Attention of packed sequences.

use super::super::Cpu;
use super::super::pool::Shared;
use super::tile::{Chunk, Tile, walk};
use super::{Tools, n_slots, strides, tile_at};
use crate::ops::attn::Heads;

/// See [`crate::ops::attn::attn_fwd`].
pub fn attn_fwd(cpu: &Cpu, q: &[f32], k: &[f32], v: &[f32], cu: &[i32], o: &mut [f32], lse: &mut [f32], heads: Heads) {
    let (o, lse) = (Shared::new(o), Shared::new(lse));
    let tools = Tools::of(cpu.isa);
    cpu.pool.run(n_slots(cu) * heads.q, |task| {
        let (slot, head) = (task / heads.q, task % heads.q);
        if let Some(at) = tile_at(cu, slot) {
            cpu.isa.run(
                #[inline(always)]
                || one_tile(tools, q, k, v, o, lse, at, head, heads),
            )
        }
    });
}

/// All of a tile's queries of one head over all of their keys.
#[inline(always)]
fn one_tile(
    tools: Tools,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    o: Shared<f32>,
    lse: Shared<f32>,
    (start, tile, rows): (usize, usize, usize),
    head: usize,
    heads: Heads,
) {
    let (dim, (q_stride, k_stride)) = (heads.dim, strides(heads));
    let at = |row: usize| row * q_stride + head * dim;
    let queries =
        Tile { q: &q[at(start + tile)..], stride: q_stride, start: tile, lanes: 0..rows, dim, scale: heads.scale };
    walk(
        tools,
        queries,
        #[inline(always)]
        |chunk| {
            let at = (start + chunk) * k_stride + head / (heads.q / heads.kv) * dim;
            Chunk { k: &k[at..], k_row: k_stride, k_step: 1, v: &v[at..], v_row: k_stride }
        },
        #[inline(always)]
        |lane, acc, max, sum| {
            let row = start + tile + lane;
            // SAFETY: no other task has this row and head.
            let (o, lse) = unsafe { (o.part(at(row), dim), lse.part(row * heads.q + head, 1)) };
            let inverse = 1.0 / sum;
            for (o, x) in o.iter_mut().zip(acc) {
                *o = x * inverse;
            }
            lse[0] = max + sum.ln();
        },
    );
}
