//! RMSNorm on the CPU.

use super::Cpu;

/// See [`crate::ops::norm::rmsnorm_fwd`].
pub fn rmsnorm_fwd(_cpu: &Cpu, x: &[f32], w: &[f32], y: &mut [f32], rstd: &mut [f32], eps: f32) {
    let c = w.len();
    for (row, r) in rstd.iter_mut().enumerate() {
        let x = &x[row * c..][..c];
        let y = &mut y[row * c..][..c];
        let sum = x.iter().fold(0f32, |s, v| v.mul_add(*v, s));
        *r = 1.0 / (sum / c as f32 + eps).sqrt();
        for i in 0..c {
            y[i] = x[i] * *r * w[i];
        }
    }
}

/// See [`crate::ops::norm::rmsnorm_bwd`].
pub fn rmsnorm_bwd(_cpu: &Cpu, dy: &[f32], x: &[f32], w: &[f32], rstd: &[f32], dx: &mut [f32], dw: &mut [f32]) {
    let c = w.len();
    for (row, r) in rstd.iter().enumerate() {
        let (dy, x, dx) = (&dy[row * c..][..c], &x[row * c..][..c], &mut dx[row * c..][..c]);
        let dot: f32 = (0..c).map(|i| dy[i] * w[i] * x[i]).sum::<f32>() * r * r * r / c as f32;
        for i in 0..c {
            dx[i] += dy[i] * w[i] * r - x[i] * dot;
            dw[i] += dy[i] * x[i] * r;
        }
    }
}
