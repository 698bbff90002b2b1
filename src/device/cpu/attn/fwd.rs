//! Attention of packed sequences.

use super::super::pool::Shared;
use super::super::{Cpu, math, mm};
use super::{Queries, Room, Scores, n_slots, strides, tile_at, turn};
use crate::ops::attn::{CHUNK, Heads};
use std::mem::MaybeUninit;

/// See [`crate::ops::attn::attn_fwd`].
pub fn attn_fwd(cpu: &Cpu, q: &[f32], k: &[f32], v: &[f32], cu: &[i32], o: &mut [f32], lse: &mut [f32], heads: Heads) {
    let (o, lse) = (Shared::new(o), Shared::new(lse));
    let mm = mm::mm(cpu.isa);
    cpu.pool.run(n_slots(cu) * heads.q, |task| {
        let (slot, head) = (task / heads.q, task % heads.q);
        if let Some(at) = tile_at(cu, slot) {
            cpu.isa.run(
                #[inline(always)]
                || tile_fwd(mm, q, k, v, o, lse, at, head, heads),
            )
        }
    });
}

/// All of a tile's queries of one head over all of their keys.
#[inline(always)]
fn tile_fwd(
    mm: mm::Mm,
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
    let row = start + tile;
    let (mut qt, mut acc) = (Room(MaybeUninit::uninit()), Room(MaybeUninit::uninit()));
    let (qt, acc) = (qt.zeroed(CHUNK * dim), acc.zeroed(CHUNK * dim));
    let mut s = Scores([[0.0; CHUNK]; CHUNK]);
    let (mut max, mut sum) = (Queries([f32::NEG_INFINITY; CHUNK]), Queries([0.0; CHUNK]));
    turn(&q[row * q_stride + head * dim..], q_stride, rows, dim, qt);
    for chunk in (0..=tile).step_by(CHUNK) {
        let diagonal = chunk == tile;
        let keys = if diagonal { rows } else { CHUNK };
        let at = (start + chunk) * k_stride + head / (heads.q / heads.kv) * dim;
        // SAFETY: `keys` rows of k from `at` on exist (checked by the op); qt is [D, CHUNK], s is [CHUNK, CHUNK].
        unsafe {
            let (k, s) = (k[at..].as_ptr(), s.0.as_mut_ptr().cast());
            mm(k, k_stride, 1, qt.as_ptr(), CHUNK, s, CHUNK, keys, CHUNK, dim, false);
        }
        let shrink = merge(&mut s, &mut max, &mut sum, heads.scale, diagonal);
        if chunk > 0 {
            scale_rows(acc, &shrink, rows, dim);
        }
        add_values(mm, &s, &v[at..], k_stride, acc, rows, dim, chunk > 0, diagonal);
    }
    for i in 0..rows {
        // SAFETY: no other task has this row and head.
        let (o, lse) =
            unsafe { (o.part((row + i) * q_stride + head * dim, dim), lse.part((row + i) * heads.q + head, 1)) };
        let inverse = 1.0 / sum.0[i];
        for (o, x) in o.iter_mut().zip(&acc[i * dim..][..dim]) {
            *o = x * inverse;
        }
        lse[0] = max.0[i] + sum.0[i].ln();
    }
}

/// Scores -> probabilities relative to the new maximum; returns the factor of what was summed before.
/// On the diagonal, query i sees keys up to i.
#[inline(always)]
fn merge(s: &mut Scores, max: &mut Queries, sum: &mut Queries, scale: f32, diagonal: bool) -> Queries {
    let mut new_max = *max;
    for j in 0..CHUNK {
        for i in 0..CHUNK {
            let x = s.0[j][i] * scale;
            let x = if diagonal && j > i { f32::NEG_INFINITY } else { x };
            s.0[j][i] = x;
            new_max.0[i] = if x > new_max.0[i] { x } else { new_max.0[i] };
        }
    }
    let mut shrink = Queries([0.0; CHUNK]);
    for i in 0..CHUNK {
        shrink.0[i] = math::exp(max.0[i] - new_max.0[i]);
    }
    for j in 0..CHUNK {
        for i in 0..CHUNK {
            s.0[j][i] = math::exp(s.0[j][i] - new_max.0[i]);
        }
    }
    // The tree of `super::tree`, in every lane.
    // All rows of a level at once, as one row of floats: nested loops would be vectorised across rows, with gathers.
    let mut half = Scores(s.0);
    let mut rows = half.0.as_flattened_mut();
    while rows.len() > CHUNK {
        let (low, high) = rows.split_at_mut(rows.len() / 2);
        low.iter_mut().zip(high).for_each(
            #[inline(always)]
            |(a, b)| *a += *b,
        );
        rows = low;
    }
    for i in 0..CHUNK {
        sum.0[i] = sum.0[i] * shrink.0[i] + half.0[0][i];
    }
    *max = new_max;
    shrink
}

#[inline(always)]
fn scale_rows(acc: &mut [f32], shrink: &Queries, rows: usize, dim: usize) {
    for i in 0..rows {
        if shrink.0[i] != 1.0 {
            acc[i * dim..][..dim].iter_mut().for_each(
                #[inline(always)]
                |x| *x *= shrink.0[i],
            );
        }
    }
}

/// `acc[i] += p[i] v`, keys in order, or `=` when not `load`; on the diagonal only the keys a query sees.
#[inline(always)]
fn add_values(
    mm: mm::Mm,
    p: &Scores,
    v: &[f32],
    v_stride: usize,
    acc: &mut [f32],
    rows: usize,
    dim: usize,
    load: bool,
    diagonal: bool,
) {
    let (p, v, acc) = (p.0.as_ptr().cast::<f32>(), v.as_ptr(), acc.as_mut_ptr());
    // SAFETY: p is [CHUNK, CHUNK] read by columns, acc [CHUNK, D]; key j of v exists: j < CHUNK, or below `rows` on the
    // diagonal.
    unsafe {
        if !diagonal {
            return mm(p, 1, CHUNK, v, v_stride, acc, dim, rows, dim, CHUNK, load);
        }
        // Eight queries share the keys that all of them see, then each walks on alone.
        for i in (0..rows).step_by(8) {
            let together = 8.min(rows - i);
            mm(p.add(i), 1, CHUNK, v, v_stride, acc.add(i * dim), dim, together, dim, i + 1, load);
            for i in i + 1..i + together {
                let first = i / 8 * 8 + 1;
                let (p, v) = (p.add(first * CHUNK + i), v.add(first * v_stride));
                mm(p, 1, CHUNK, v, v_stride, acc.add(i * dim), dim, 1, dim, i + 1 - first, true);
            }
        }
    }
}
