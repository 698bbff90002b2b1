//! The optimizer: the sum of squares, and AdamW.

use crate::ops::optim::AdamW;

/// Sum of squares; see [`crate::ops::optim::grad_norm`].
pub fn grad_norm(g: &[f64]) -> f64 {
    g.iter().map(|g| g * g).sum()
}

/// Returns the new w, m, v; see [`crate::ops::optim::adamw_step`].
///
/// `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `w -= lr (m^ / (sqrt(v^) + eps) + decay w)`, with
/// `m^ = m / (1 - b1^t)`, `v^ = v / (1 - b2^t)` and g scaled first.
pub fn adamw_step(g: &[f64], w: &[f64], m: &[f64], v: &[f64], how: AdamW) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (b1, b2, t) = (how.beta1 as f64, how.beta2 as f64, how.step as i32);
    let g: Vec<f64> = g.iter().map(|g| g * how.grad_scale as f64).collect();
    let m: Vec<f64> = m.iter().zip(&g).map(|(m, g)| b1 * m + (1.0 - b1) * g).collect();
    let v: Vec<f64> = v.iter().zip(&g).map(|(v, g)| b2 * v + (1.0 - b2) * g * g).collect();
    let step = |i: usize| {
        let (m, v) = (m[i] / (1.0 - b1.powi(t)), v[i] / (1.0 - b2.powi(t)));
        w[i] - how.lr as f64 * (m / (v.sqrt() + how.eps as f64) + how.weight_decay as f64 * w[i])
    };
    let w = (0..w.len()).map(step).collect();
    (w, m, v)
}
