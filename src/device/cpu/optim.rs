//! The optimizer's ops on the CPU.

use super::Cpu;
use crate::ops::optim::AdamW;

/// Sum of squares, in f64, in ascending order.
pub fn sum_squares(_cpu: &Cpu, g: &[f32]) -> f32 {
    g.iter().fold(0f64, |s, x| s + *x as f64 * *x as f64) as f32
}

/// See [`crate::ops::optim::adamw_step`].
pub fn adamw_step(_cpu: &Cpu, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32], how: AdamW) {
    let c1 = 1.0 / (1.0 - how.beta1.powi(how.step as i32));
    let c2 = 1.0 / (1.0 - how.beta2.powi(how.step as i32));
    for i in 0..g.len() {
        let g = g[i] * how.grad_scale;
        m[i] = how.beta1 * m[i] + (1.0 - how.beta1) * g;
        v[i] = how.beta2 * v[i] + (1.0 - how.beta2) * g * g;
        let update = m[i] * c1 / ((v[i] * c2).sqrt() + how.eps);
        w[i] -= how.lr * (update + how.weight_decay * w[i]);
    }
}
