//! RMSNorm on the CPU.

use crate::device::cpu::Cpu;
use crate::device::cpu::float::Float;
use crate::device::cpu::pool::Shared;
use crate::device::cpu::softmax::{LANES, tree};

/// Columns of dw that are summed side by side.
const COLUMNS: usize = 16;
/// Rows of a task; of dw, summed from zero before they are added to the rest: keeps long sums exact.
const BLOCK: usize = 64;

/// Sum over three slices of one length side by side, in the one order of a row's sums; `f(x, y, z, s)` adds to s.
#[inline(always)]
fn row_sum(x: &[f32], y: &[f32], z: &[f32], f: impl Fn(f32, f32, f32, f32) -> f32) -> f32 {
    let mut acc = [0f32; LANES];
    let ((xs, x), (ys, y), (zs, z)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>(), z.as_chunks::<LANES>());
    for ((x, y), z) in xs.iter().zip(ys).zip(zs) {
        for l in 0..LANES {
            acc[l] = f(x[l], y[l], z[l], acc[l]);
        }
    }
    for (l, ((x, y), z)) in x.iter().zip(y).zip(z).enumerate() {
        acc[l] = f(*x, *y, *z, acc[l]);
    }
    tree(acc)
}

/// y of one row, or head; returns rstd.
#[inline(always)]
pub(crate) fn norm_row<T: Float>(x: &[f32], w: &[f32], y: &mut [T], eps: f32) -> f32 {
    let sum = row_sum(
        x,
        x,
        x,
        #[inline(always)]
        |x, _, _, s| x.mul_add(x, s),
    );
    let scale = 1.0 / (sum / w.len() as f32 + eps).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = T::of(x * scale * w);
    }
    scale
}

/// See [`crate::ops::norm::rmsnorm_fwd`].
pub(crate) fn rmsnorm_fwd<T: Float>(cpu: &Cpu, x: &[f32], w: &[f32], y: &mut [T], rstd: &mut [f32], eps: f32) {
    let (c, n) = (w.len(), rstd.len());
    let (y, rstd) = (Shared::new(y), Shared::new(rstd));
    cpu.rows(
        n,
        c,
        #[inline(always)]
        |first, rows| {
            for row in first..first + rows {
                // SAFETY: each row is one task's.
                let (y, r) = unsafe { (y.part(row * c, c), rstd.part(row, 1)) };
                r[0] = norm_row(&x[row * c..][..c], w, y, eps);
            }
        },
    );
}

/// f32 elements of the sums of blocks of rows.
pub fn parts_len(n: usize, dim: usize) -> usize {
    n.div_ceil(BLOCK) * dim
}

/// See [`crate::ops::norm::rmsnorm_bwd`]. With `g = dy w`: `dx += rstd g - x rstd^3 mean(g x)`, `dw += sum dy x rstd`.
///
/// A task has a block of rows: their dx, then, while they are in its caches, the block's sums for dw, if there is one, from
/// zero in four chains (row i in chain i % 4). Blocks are added to dw in order.
pub fn rmsnorm_bwd(
    cpu: &Cpu,
    [dy, x, w, rstd]: [&[f32]; 4],
    dx: &mut [f32],
    dw: Option<&mut [f32]>,
    parts: &mut [f32],
) {
    let (c, n) = (w.len(), rstd.len());
    let (dx, sums) = (Shared::new(dx), Shared::new(parts));
    cpu.pool.run(n.div_ceil(BLOCK), |block| {
        let rows = block * BLOCK..n.min((block + 1) * BLOCK);
        // SAFETY: each block is one task's.
        let (dx, sums) = unsafe { (dx.part(rows.start * c, rows.len() * c), sums.part(block * c, c)) };
        let (dy, x) = (&dy[rows.start * c..][..rows.len() * c], &x[rows.start * c..][..rows.len() * c]);
        cpu.isa.run(
            #[inline(always)]
            || {
                for (row, dx) in dx.chunks_exact_mut(c).enumerate() {
                    add_dx(&dy[row * c..][..c], &x[row * c..][..c], w, rstd[rows.start + row], dx);
                }
                let of_w = if dw.is_some() { sums } else { &mut [] };
                for (i, sums) in of_w.chunks_mut(COLUMNS).enumerate() {
                    sum_columns(dy, x, &rstd[rows.clone()], c, i * COLUMNS, sums);
                }
            },
        );
    });
    let Some(dw) = dw else { return };
    for sums in parts[..parts_len(n, c)].chunks_exact(c) {
        dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += sum);
    }
}

/// Adds a row's gradient.
#[inline(always)]
fn add_dx(dy: &[f32], x: &[f32], w: &[f32], r: f32, dx: &mut [f32]) {
    let dot = row_sum(
        dy,
        w,
        x,
        #[inline(always)]
        |dy, w, x, s| (dy * w).mul_add(x, s),
    );
    let dot = dot * r * r * r / x.len() as f32;
    for (((dx, dy), w), x) in dx.iter_mut().zip(dy).zip(w).zip(x) {
        *dx += (dy * w).mul_add(r, -(x * dot));
    }
}

/// A block's sums of the columns from `column` on.
#[inline(always)]
fn sum_columns(dy: &[f32], x: &[f32], rstd: &[f32], c: usize, column: usize, sums: &mut [f32]) {
    let mut acc = [[0f32; COLUMNS]; 4];
    for (row, rstd) in rstd.iter().enumerate() {
        add_row(&mut acc[row % 4], &dy[row * c + column..], &x[row * c + column..], *rstd, sums.len());
    }
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = (acc[0][i] + acc[1][i]) + (acc[2][i] + acc[3][i]);
    }
}

#[inline(always)]
fn add_row(acc: &mut [f32; COLUMNS], dy: &[f32], x: &[f32], rstd: f32, columns: usize) {
    if columns == COLUMNS {
        let (dy, x) = (&dy[..COLUMNS], &x[..COLUMNS]);
        for i in 0..COLUMNS {
            acc[i] = (dy[i] * x[i]).mul_add(rstd, acc[i]);
        }
    } else {
        for i in 0..columns {
            acc[i] = (dy[i] * x[i]).mul_add(rstd, acc[i]);
        }
    }
}
