//! SwiGLU on the CPU.

use crate::device::cpu::float::{BLOCK, Float};
use crate::device::cpu::pool::Shared;
use crate::device::cpu::{Cpu, math};
use crate::ops::gemm::cpu::narrow;

/// See [`crate::ops::swiglu::swiglu_fwd`].
pub(crate) fn swiglu_fwd<T: Float>(cpu: &Cpu, gate: &[f32], up: &[f32], h: &mut [T]) {
    let (h, narrow) = (Shared::new(h), narrow(cpu));
    cpu.rows(
        gate.len(),
        1,
        #[inline(always)]
        |first, n| {
            // SAFETY: each part is one task's.
            let h = unsafe { h.part(first, n) };
            let (gate, up) = (&gate[first..][..n], &up[first..][..n]);
            let mut block = [0f32; BLOCK];
            for ((h, gate), up) in h.chunks_mut(BLOCK).zip(gate.chunks(BLOCK)).zip(up.chunks(BLOCK)) {
                for ((h, gate), up) in T::room(h, &mut block).iter_mut().zip(gate).zip(up) {
                    *h = gate / (1.0 + math::exp(-gate)) * up;
                }
                T::put(narrow, &block, h);
            }
        },
    );
}

/// See [`crate::ops::swiglu::swiglu_bwd`]. `silu'(g) = s (1 + g (1 - s))` with `s = sigmoid(g)`.
pub(crate) fn swiglu_bwd<T: Float>(cpu: &Cpu, dh: &[f32], gate: &[f32], up: &[f32], dgate: &mut [T], dup: &mut [T]) {
    let (dgate, dup, narrow) = (Shared::new(dgate), Shared::new(dup), narrow(cpu));
    cpu.rows(
        gate.len(),
        1,
        #[inline(always)]
        |first, n| {
            let mut blocks = [[0f32; BLOCK]; 2];
            for at in (first..first + n).step_by(BLOCK) {
                let n = BLOCK.min(first + n - at);
                // SAFETY: each part is one task's.
                let (dgate, dup) = unsafe { (dgate.part(at, n), dup.part(at, n)) };
                let (dh, gate, up) = (&dh[at..][..n], &gate[at..][..n], &up[at..][..n]);
                let [by_gate, by_up] = &mut blocks;
                let (to_gate, to_up) = (&mut T::room(dgate, by_gate)[..n], &mut T::room(dup, by_up)[..n]);
                for i in 0..n {
                    let s = 1.0 / (1.0 + math::exp(-gate[i]));
                    to_up[i] = dh[i] * (gate[i] * s);
                    to_gate[i] = dh[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
                }
                T::put(narrow, by_gate, dgate);
                T::put(narrow, by_up, dup);
            }
        },
    );
}
