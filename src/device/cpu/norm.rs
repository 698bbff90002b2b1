//! RMSNorm on the CPU.

use super::Cpu;
use super::pool::Shared;

/// Lanes of a row's sums: lane l has the elements l, l + 16, ... in a chain; then halves are added, 8, 4, 2, 1.
const LANES: usize = 16;
/// Columns of dw that one task sums.
const COLUMNS: usize = 16;
/// Rows of dw summed from zero before they are added to the rest: keeps long sums exact.
const BLOCK: usize = 64;

/// Sum of `f(i)` for `i` in `0..n`, in the one order of a row's sums; `f(i, s)` adds to s.
#[inline(always)]
fn row_sum(n: usize, f: impl Fn(usize, f32) -> f32) -> f32 {
    let mut acc = [0f32; LANES];
    for i in (0..n / LANES * LANES).step_by(LANES) {
        for l in 0..LANES {
            acc[l] = f(i + l, acc[l]);
        }
    }
    for i in n / LANES * LANES..n {
        acc[i % LANES] = f(i, acc[i % LANES]);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            acc[l] += acc[l + half];
        }
        half /= 2;
    }
    acc[0]
}

/// See [`crate::ops::norm::rmsnorm_fwd`].
pub fn rmsnorm_fwd(cpu: &Cpu, x: &[f32], w: &[f32], y: &mut [f32], rstd: &mut [f32], eps: f32) {
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
                    c,
                    #[inline(always)]
                    |i, s| x[i].mul_add(x[i], s),
                );
                r[0] = 1.0 / (sum / c as f32 + eps).sqrt();
                for i in 0..c {
                    y[i] = x[i] * r[0] * w[i];
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
                    c,
                    #[inline(always)]
                    |i, s| (dy[i] * w[i]).mul_add(x[i], s),
                );
                let dot = dot * r * r * r / c as f32;
                for i in 0..c {
                    dx[i] += (dy[i] * w[i]).mul_add(r, -(x[i] * dot));
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
