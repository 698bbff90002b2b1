//! The bias on the CPU.

use super::BLOCK;
use crate::device::cpu::Cpu;
use crate::device::cpu::pool::Shared;

/// See [`crate::ops::bias::bias_fwd`].
pub(crate) fn bias_fwd(cpu: &Cpu, b: &[f32], y: &mut [f32]) {
    let (f, n) = (b.len(), y.len() / b.len().max(1));
    let y = Shared::new(y);
    cpu.rows(
        n,
        f,
        #[inline(always)]
        |first, rows| {
            // SAFETY: each row is one task's.
            let y = unsafe { y.part(first * f, rows * f) };
            y.chunks_exact_mut(f).for_each(|y| y.copy_from_slice(b));
        },
    );
}

/// See [`crate::ops::bias::bias_bwd`]. A block of rows from zero in four chains (row i in chain i % 4); blocks are added to
/// db in order.
pub(crate) fn bias_bwd(cpu: &Cpu, dy: &[f32], db: &mut [f32], parts: &mut [f32]) {
    let (f, n) = (db.len(), dy.len() / db.len().max(1));
    let sums = Shared::new(parts);
    cpu.pool.run(n.div_ceil(BLOCK), |block| {
        let rows = block * BLOCK..n.min((block + 1) * BLOCK);
        // SAFETY: each block is one task's.
        let sums = unsafe { sums.part(block * f, f) };
        let dy = &dy[rows.start * f..][..rows.len() * f];
        cpu.isa.run(
            #[inline(always)]
            || {
                for (column, sum) in sums.iter_mut().enumerate() {
                    let mut acc = [0f32; 4];
                    for (row, dy) in dy.chunks_exact(f).enumerate() {
                        acc[row % 4] += dy[column];
                    }
                    *sum = (acc[0] + acc[1]) + (acc[2] + acc[3]);
                }
            },
        );
    });
    for sums in parts.chunks_exact(f) {
        db.iter_mut().zip(sums).for_each(|(db, sum)| *db += sum);
    }
}
