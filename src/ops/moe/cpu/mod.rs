//! A mixture of experts on the CPU.

pub(crate) mod balance;
mod route;

pub(crate) use route::{moe_sort, route_topk_bwd, route_topk_fwd};

use crate::device::Element;
use crate::device::cpu::Cpu;
use crate::device::cpu::float::Float;
use crate::device::cpu::pool::Shared;
use crate::device::cpu::softmax::tree;
use crate::ops::gemm::Store;

/// Lanes of an inner product over C.
const LANES: usize = 128;

/// See [`crate::ops::moe::moe_gather_fwd`].
pub(crate) fn moe_gather_fwd<T: Element + Sync + Send>(cpu: &Cpu, x: &[T], order: &[i32], xs: &mut [T], dim: usize) {
    // Of no tokens there are no rows.
    let (xs, n_active) = (Shared::new(xs), order.len() / (x.len() / dim.max(1)).max(1));
    cpu.rows(order.len(), dim, |first, rows| {
        for row in first..first + rows {
            // SAFETY: each row is one task's.
            let to = unsafe { xs.part(row * dim, dim) };
            to.copy_from_slice(&x[order[row] as usize / n_active * dim..][..dim]);
        }
    });
}

/// See [`crate::ops::moe::moe_gather_bwd`].
pub(crate) fn moe_gather_bwd(cpu: &Cpu, dxs: &[f32], place: &[i32], dx: &mut [f32], dim: usize, store: Store) {
    let n = dx.len() / dim.max(1);
    let (dx, n_active) = (Shared::new(dx), place.len() / n.max(1));
    cpu.rows(
        n,
        dim * n_active,
        #[inline(always)]
        |first, rows| {
            for row in first..first + rows {
                // SAFETY: each row is one task's.
                let dx = unsafe { dx.part(row * dim, dim) };
                if store == Store::Set {
                    dx.fill(0.0);
                }
                for at in &place[row * n_active..][..n_active] {
                    dx.iter_mut().zip(&dxs[*at as usize * dim..][..dim]).for_each(|(dx, d)| *dx += d);
                }
            }
        },
    );
}

/// See [`crate::ops::moe::moe_combine_fwd`].
pub(crate) fn moe_combine_fwd(cpu: &Cpu, out: &[f32], gates: &[f32], place: &[i32], y: &mut [f32], dim: usize) {
    let n = y.len() / dim.max(1);
    let (y, n_active) = (Shared::new(y), place.len() / n.max(1));
    cpu.rows(
        n,
        dim * n_active,
        #[inline(always)]
        |first, rows| {
            for row in first..first + rows {
                // SAFETY: each row is one task's.
                let y = unsafe { y.part(row * dim, dim) };
                for at in row * n_active..(row + 1) * n_active {
                    let (gate, out) = (gates[at], &out[place[at] as usize * dim..][..dim]);
                    y.iter_mut().zip(out).for_each(|(y, o)| *y = gate.mul_add(*o, *y));
                }
            }
        },
    );
}

/// See [`crate::ops::moe::moe_combine_bwd`]. Gates by rows, outputs by places: so each task writes one stretch, whatever
/// stands in order and place.
pub(crate) fn moe_combine_bwd<T: Float>(
    cpu: &Cpu,
    (dy, out, gates): (&[f32], &[f32], &[f32]),
    [order, place]: [&[i32]; 2],
    dout: &mut [T],
    dgates: &mut [f32],
    dim: usize,
) {
    let (r, n) = (order.len(), dy.len() / dim.max(1));
    let (dout, dgates, n_active) = (Shared::new(dout), Shared::new(dgates), r / n.max(1));
    cpu.rows(
        r,
        dim,
        #[inline(always)]
        |first, rows| {
            // SAFETY: each part is one task's.
            let (dgates, dout) = unsafe { (dgates.part(first, rows), dout.part(first * dim, rows * dim)) };
            for (row, dgate) in (first..).zip(dgates) {
                let (dy, out) = (&dy[row / n_active * dim..][..dim], &out[place[row] as usize * dim..][..dim]);
                *dgate = dot(dy, out);
            }
            for (i, source) in order[first..first + rows].iter().enumerate() {
                let (gate, dy) = (gates[*source as usize], &dy[*source as usize / n_active * dim..][..dim]);
                dout[i * dim..][..dim].iter_mut().zip(dy).for_each(|(d, dy)| *d = T::of(gate * dy));
            }
        },
    );
}

/// `<x, y>`: element c belongs to lane c % 128, each lane is one chain, lanes are added as a tree of halves.
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sum = [0f32; LANES];
    let ((xs, x), (ys, y)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for l in 0..LANES {
            sum[l] = x[l].mul_add(y[l], sum[l]);
        }
    }
    for (sum, (x, y)) in sum.iter_mut().zip(x.iter().zip(y)) {
        *sum = x.mul_add(*y, *sum);
    }
    tree(sum)
}
