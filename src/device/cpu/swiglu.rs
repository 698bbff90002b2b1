//! SwiGLU on the CPU.

use super::Cpu;

/// See [`crate::ops::swiglu::swiglu_fwd`].
pub fn swiglu_fwd(_cpu: &Cpu, gate: &[f32], up: &[f32], h: &mut [f32]) {
    for i in 0..gate.len() {
        h[i] = gate[i] / (1.0 + (-gate[i]).exp()) * up[i];
    }
}

/// See [`crate::ops::swiglu::swiglu_bwd`].
pub fn swiglu_bwd(_cpu: &Cpu, dh: &[f32], gate: &[f32], up: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    for i in 0..gate.len() {
        let s = 1.0 / (1.0 + (-gate[i]).exp());
        dup[i] = dh[i] * gate[i] * s;
        dgate[i] = dh[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
    }
}
