//! The optimizer's ops on the CPU.

use crate::device::Element;
use crate::device::cpu::Cpu;
use crate::device::cpu::pool::Shared;
use crate::noise::Noise;
use crate::ops::optim::{AdamW, GRAD_NORM_PARTS};
use half::bf16;

/// Lanes of a part: as many as threads of the kernel.
const LANES: usize = 64;
/// Parts a task works on.
const TASK: usize = 16;

/// Elements of a part of a gradient of `n`. The number of parts is fixed, so the sum has one order on any machine.
pub fn part_len(n: usize) -> usize {
    n.div_ceil(GRAD_NORM_PARTS).next_multiple_of(LANES)
}

/// Sum of squares in f64: 1024 parts of consecutive elements, 64 lanes a part; lanes in order, then parts in order.
pub fn sum_squares(cpu: &Cpu, g: &[f32]) -> f32 {
    let mut sums = [0u64; GRAD_NORM_PARTS];
    parts_squares(cpu, g, part_len(g.len()), &mut sums);
    sums.iter().fold(0f64, |a, b| a + f64::from_bits(*b)) as f32
}

/// Sums of squares of parts of this length, f64 by their bits; 0 where there are fewer.
pub fn parts_squares(cpu: &Cpu, g: &[f32], part: usize, sums: &mut [u64]) {
    let to = Shared::new(sums);
    cpu.pool.run(GRAD_NORM_PARTS / TASK, |task| {
        for i in task * TASK..(task + 1) * TASK {
            let (from, end) = (g.len().min(i * part), g.len().min((i + 1) * part));
            let sum = cpu.isa.run(
                #[inline(always)]
                || part_squares(&g[from..end]),
            );
            // SAFETY: each part is one task's.
            let to = unsafe { to.part(i, 1) };
            to[0] = sum.to_bits();
        }
    });
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

/// A moment as it is stored.
pub trait Moment: Element + Send + Sync {
    /// Noise for both moments of an element, or nothing.
    fn chance(noise: Noise, element: u64) -> u32;
    /// In f32, exactly.
    fn wide(self) -> f32;
    /// Rounded, by 16 bits of chance.
    fn of(x: f32, chance: u32) -> Self;
}

impl Moment for f32 {
    #[inline(always)]
    fn chance(_: Noise, _: u64) -> u32 {
        0
    }
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
    #[inline(always)]
    fn of(x: f32, _: u32) -> f32 {
        x
    }
}

impl Moment for bf16 {
    #[inline(always)]
    fn chance(noise: Noise, element: u64) -> u32 {
        noise.bits(element) as u32
    }
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn of(x: f32, chance: u32) -> bf16 {
        bf16::from_bits((x.to_bits().wrapping_add(chance) >> 16) as u16)
    }
}

/// See [`crate::ops::optim::adamw_step`].
pub fn adamw_step<M: Moment>(cpu: &Cpu, g: &[f32], w: &mut [f32], m: &mut [M], v: &mut [M], how: AdamW) {
    let noise = Noise::new(0, how.step);
    let (c1, c2) = how.corrections();
    let (w, m, v) = (Shared::new(w), Shared::new(m), Shared::new(v));
    cpu.rows(
        g.len(),
        1,
        #[inline(always)]
        |at, n| {
            // SAFETY: each part is one task's.
            let (w, m, v) = unsafe { (w.part(at, n), m.part(at, n), v.part(at, n)) };
            let g = &g[at..][..n];
            for i in 0..n {
                let g = g[i] * how.grad_scale;
                let first = how.beta1 * m[i].wide() + (1.0 - how.beta1) * g;
                let second = how.beta2 * v[i].wide() + (1.0 - how.beta2) * g * g;
                let update = first * c1 / ((second * c2).sqrt() + how.eps);
                w[i] -= how.lr * (update + how.weight_decay * w[i]);
                let chance = M::chance(noise, how.element + (at + i) as u64);
                (m[i], v[i]) = (M::of(first, chance & 0xFFFF), M::of(second, chance >> 16));
            }
        },
    );
}

/// w rounded to bf16.
pub fn round(cpu: &Cpu, w: &[f32], to: &mut [bf16]) {
    let to = Shared::new(to);
    cpu.rows(
        w.len(),
        1,
        #[inline(always)]
        |first, n| {
            // SAFETY: each part is one task's.
            let to = unsafe { to.part(first, n) };
            to.iter_mut().zip(&w[first..]).for_each(|(to, w)| *to = bf16::from_f32(*w));
        },
    );
}
