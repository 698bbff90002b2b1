//! SwiGLU on the CPU.

use super::float::Float;
use super::pool::Shared;
use super::{Cpu, math};

/// See [`crate::ops::swiglu::swiglu_fwd`].
pub(crate) fn swiglu_fwd<T: Float>(cpu: &Cpu, gate: &[f32], up: &[f32], h: &mut [T]) {
    let h = Shared::new(h);
    cpu.rows(
        gate.len(),
        1,
        #[inline(always)]
        |first, n| {
            // SAFETY: each part is one task's.
            let h = unsafe { h.part(first, n) };
            let (gate, up) = (&gate[first..][..n], &up[first..][..n]);
            for i in 0..n {
                h[i] = T::of(gate[i] / (1.0 + math::exp(-gate[i])) * up[i]);
            }
        },
    );
}

/// See [`crate::ops::swiglu::swiglu_bwd`]. `silu'(g) = s (1 + g (1 - s))` with `s = sigmoid(g)`.
pub(crate) fn swiglu_bwd<T: Float>(cpu: &Cpu, dh: &[f32], gate: &[f32], up: &[f32], dgate: &mut [T], dup: &mut [T]) {
    let (dgate, dup) = (Shared::new(dgate), Shared::new(dup));
    cpu.rows(
        gate.len(),
        1,
        #[inline(always)]
        |first, n| {
            // SAFETY: each part is one task's.
            let (dgate, dup) = unsafe { (dgate.part(first, n), dup.part(first, n)) };
            let (dh, gate, up) = (&dh[first..][..n], &gate[first..][..n], &up[first..][..n]);
            for i in 0..n {
                let s = 1.0 / (1.0 + math::exp(-gate[i]));
                dup[i] = T::of(dh[i] * (gate[i] * s));
                dgate[i] = T::of(dh[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s)));
            }
        },
    );
}
