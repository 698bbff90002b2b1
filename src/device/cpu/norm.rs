//! RMSNorm on the CPU.

use super::Cpu;
use super::float::Float;
use super::pool::Shared;
use super::softmax::{LANES, tree};

/// Columns of dw that one task sums.
const COLUMNS: usize = 16;
/// Rows of dw summed from zero before they are added to the rest: keeps long sums exact.
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
                let x = &x[row * c..][..c];
                let sum = row_sum(
                    x,
                    x,
                    x,
                    #[inline(always)]
                    |x, _, _, s| x.mul_add(x, s),
                );
                let scale = 1.0 / (sum / c as f32 + eps).sqrt();
                r[0] = scale;
                for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                    *y = T::of(x * scale * w);
                }
            }
        },
    );
}

/// See [`crate::ops::norm::rmsnorm_bwd`]. With `g = dy w`: `dx += rstd g - x rstd^3 mean(g x)`, `dw += sum dy x rstd`.
pub fn rmsnorm_bwd(cpu: &Cpu, dy: &[f32], x: &[f32], w: &[f32], rstd: &[f32], dx: &mut [f32], dw: &mut [f32]) {
    let (c, n) = (w.len(), rstd.len());
    let dx = Shared::new(dx);
    cpu.rows(
        n,
        c,
        #[inline(always)]
        |first, rows| {
            for row in first..first + rows {
                // SAFETY: each row is one task's.
                let dx = unsafe { dx.part(row * c, c) };
                let (dy, x, r) = (&dy[row * c..][..c], &x[row * c..][..c], rstd[row]);
                let dot = row_sum(
                    dy,
                    w,
                    x,
                    #[inline(always)]
                    |dy, w, x, s| (dy * w).mul_add(x, s),
                );
                let dot = dot * r * r * r / c as f32;
                for (((dx, dy), w), x) in dx.iter_mut().zip(dy).zip(w).zip(x) {
                    *dx += (dy * w).mul_add(r, -(x * dot));
                }
            }
        },
    );
    add_dw(cpu, dy, x, rstd, dw);
}

/// Columns in parallel, rows in order: blocks of rows from zero, four chains a block, blocks in order.
fn add_dw(cpu: &Cpu, dy: &[f32], x: &[f32], rstd: &[f32], dw: &mut [f32]) {
    let (c, n) = (dw.len(), rstd.len());
    let dw = Shared::new(dw);
    cpu.pool.run(c.div_ceil(COLUMNS), |task| {
        let column = task * COLUMNS;
        // SAFETY: each column is one task's.
        let dw = unsafe { dw.part(column, COLUMNS.min(c - column)) };
        cpu.isa.run(
            #[inline(always)]
            || {
                for block in (0..n).step_by(BLOCK) {
                    let mut acc = [[0f32; COLUMNS]; 4];
                    for row in block..n.min(block + BLOCK) {
                        let (dy, x) = (&dy[row * c + column..], &x[row * c + column..]);
                        add_row(&mut acc[row % 4], dy, x, rstd[row], dw.len());
                    }
                    for i in 0..dw.len() {
                        dw[i] += (acc[0][i] + acc[1][i]) + (acc[2][i] + acc[3][i]);
                    }
                }
            },
        )
    });
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
