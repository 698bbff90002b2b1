//! The balance of experts on the CPU.

use crate::device::cpu::Cpu;
use crate::device::cpu::pool::Shared;
use crate::device::cpu::softmax::{LANES, tree};

/// Lanes of a mean over tokens.
const TOKENS: usize = 32;
/// Experts that one task sums: one cache line.
const COLUMNS: usize = 16;

/// See [`crate::ops::moe::route_balance_fwd`]. Token n belongs to lane n % 32, each lane is added up in order, lanes are added
/// as a tree of halves; experts in 16 lanes likewise.
pub(crate) fn route_balance_fwd(
    cpu: &Cpu,
    probs: &[f32],
    offsets: &[i32],
    (counts, mean, loss): (&mut [i32], &mut [f32], &mut [f32]),
) {
    let (e, n) = (counts.len(), probs.len() / counts.len());
    let shared = Shared::new(mean);
    cpu.pool.run(e.div_ceil(COLUMNS), |task| {
        let first = task * COLUMNS;
        // SAFETY: each column is one task's.
        let mean = unsafe { shared.part(first, COLUMNS.min(e - first)) };
        let mut sums = [[0f32; TOKENS]; COLUMNS];
        for (row, probs) in probs.chunks_exact(e).enumerate() {
            sums.iter_mut().zip(&probs[first..]).for_each(|(sums, p)| sums[row % TOKENS] += p);
        }
        mean.iter_mut().zip(sums).for_each(|(mean, sums)| *mean = tree(sums) / n as f32);
    });
    counts.iter_mut().zip(offsets.windows(2)).for_each(|(count, at)| *count = at[1] - at[0]);
    let mut sum = [0f32; LANES];
    for (i, (count, mean)) in counts.iter().zip(mean.iter()).enumerate() {
        sum[i % LANES] += *count as f32 / n as f32 * mean;
    }
    loss[0] = e as f32 * tree(sum);
}

/// See [`crate::ops::moe::route_balance_bwd`]: `dlogits += p (c - sum p c)` with `c = scale counts`.
pub(crate) fn route_balance_bwd(cpu: &Cpu, probs: &[f32], counts: &[i32], dlogits: &mut [f32], scale: f32) {
    let (e, dlogits) = (counts.len(), Shared::new(dlogits));
    cpu.rows(
        probs.len() / e,
        e,
        #[inline(always)]
        |first, rows| {
            for row in first..first + rows {
                // SAFETY: each row is one task's.
                let dlogits = unsafe { dlogits.part(row * e, e) };
                let (probs, mut dot) = (&probs[row * e..][..e], [0f32; LANES]);
                for (i, (p, count)) in probs.iter().zip(counts).enumerate() {
                    dot[i % LANES] = p.mul_add(scale * *count as f32, dot[i % LANES]);
                }
                let dot = tree(dot);
                for ((d, p), count) in dlogits.iter_mut().zip(probs).zip(counts) {
                    *d = p.mul_add(scale * *count as f32 - dot, *d);
                }
            }
        },
    );
}
