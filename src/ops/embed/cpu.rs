//! Rows by index on the CPU.

use crate::device::cpu::Cpu;
use crate::device::cpu::float::Float;
use crate::device::cpu::pool::Shared;

/// Columns that one task adds up in backward: one cache line.
const COLUMNS: usize = 16;

/// See [`crate::ops::embed::embed_fwd`].
pub(crate) fn embed_fwd<T: Float>(cpu: &Cpu, ids: &[i32], table: &[T], x: &mut [f32], dim: usize) {
    let x = Shared::new(x);
    cpu.rows(ids.len(), dim, |first, rows| {
        for row in first..first + rows {
            // SAFETY: each row is one task's.
            let x = unsafe { x.part(row * dim, dim) };
            let from = &table[ids[row] as usize * dim..][..dim];
            x.iter_mut().zip(from).for_each(|(x, from)| *x = from.wide());
        }
    });
}

/// See [`crate::ops::embed::embed_bwd`]. Columns in parallel, rows in order.
pub fn embed_bwd(cpu: &Cpu, ids: &[i32], dx: &[f32], dtable: &mut [f32], dim: usize) {
    let dtable = Shared::new(dtable);
    cpu.pool.run(dim.div_ceil(COLUMNS), |task| {
        let column = task * COLUMNS;
        let n = COLUMNS.min(dim - column);
        for (row, &id) in ids.iter().enumerate() {
            // SAFETY: each column is one task's.
            let to = unsafe { dtable.part(id as usize * dim + column, n) };
            for (t, d) in to.iter_mut().zip(&dx[row * dim + column..][..n]) {
                *t += d;
            }
        }
    });
}
