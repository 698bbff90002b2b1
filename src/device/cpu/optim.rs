//! The optimizer's ops on the CPU.

use super::Cpu;
use super::pool::Shared;
use crate::ops::optim::AdamW;

/// Parts of a sum over a whole gradient: their number is fixed, so the sum has one order on any machine.
const PARTS: usize = 64;
const LANES: usize = 16;

/// Sum of squares in f64: 64 parts of consecutive elements, 16 lanes a part; lanes in order, then parts in order.
pub fn sum_squares(cpu: &Cpu, g: &[f32]) -> f32 {
    let mut sums = [0f64; PARTS];
    let part = g.len().div_ceil(PARTS).next_multiple_of(LANES);
    let to = Shared::new(&mut sums);
    cpu.pool.run(g.len().div_ceil(part.max(1)), |task| {
        let g = &g[task * part..g.len().min((task + 1) * part)];
        let sum = cpu.isa.run(
            #[inline(always)]
            || part_squares(g),
        );
        // SAFETY: each part is one task's.
        let to = unsafe { to.part(task, 1) };
        to[0] = sum;
    });
    sums.iter().fold(0f64, |a, b| a + b) as f32
}

#[inline(always)]
fn part_squares(g: &[f32]) -> f64 {
    let mut acc = [0f64; LANES];
    let (whole, rest) = g.as_chunks::<LANES>();
    for g in whole {
        for l in 0..LANES {
            acc[l] += g[l] as f64 * g[l] as f64;
        }
    }
    for (l, g) in rest.iter().enumerate() {
        acc[l] += *g as f64 * *g as f64;
    }
    acc.iter().fold(0f64, |a, b| a + b)
}

/// See [`crate::ops::optim::adamw_step`].
pub fn adamw_step(cpu: &Cpu, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32], how: AdamW) {
    let step = how.step.min(i32::MAX as u64) as i32;
    // In f64: for small steps 1 - beta^step is a difference of near equals.
    let correction = |beta: f32| (1.0 / (1.0 - (beta as f64).powi(step))) as f32;
    let (c1, c2) = (correction(how.beta1), correction(how.beta2));
    let (w, m, v) = (Shared::new(w), Shared::new(m), Shared::new(v));
    cpu.rows(
        g.len(),
        1,
        #[inline(always)]
        |first, n| {
            // SAFETY: each part is one task's.
            let (w, m, v) = unsafe { (w.part(first, n), m.part(first, n), v.part(first, n)) };
            let g = &g[first..][..n];
            for i in 0..n {
                let g = g[i] * how.grad_scale;
                m[i] = how.beta1 * m[i] + (1.0 - how.beta1) * g;
                v[i] = how.beta2 * v[i] + (1.0 - how.beta2) * g * g;
                let update = m[i] * c1 / ((v[i] * c2).sqrt() + how.eps);
                w[i] -= how.lr * (update + how.weight_decay * w[i]);
            }
        },
    );
}
