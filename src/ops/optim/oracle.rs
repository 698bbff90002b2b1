//! The optimizer: the sum of squares, and AdamW.

use crate::noise::Noise;
use crate::ops::optim::AdamW;
use half::bf16;

/// Sum of squares; see [`crate::ops::optim::grad_norm`].
pub fn grad_norm(g: &[f64]) -> f64 {
    g.iter().map(|g| g * g).sum()
}

/// Returns the new w, m, v; see [`crate::ops::optim::adamw_step`].
///
/// `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `w -= lr (m^ / (sqrt(v^) + eps) + decay w)`, with
/// `m^ = m / (1 - b1^t)`, `v^ = v / (1 - b2^t)` and g scaled first. What moments in bf16 are rounded to, [`rounded`] says.
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

/// A moment of an element, 0 for the first and 1 for the second, as bf16 stores it: down, towards zero, or up by one step, the
/// latter with the probability of its share of the way there.
pub fn rounded(x: f32, which: usize, how: AdamW, element: usize) -> bf16 {
    let chance = Noise::new(0, how.step).bits(how.element + element as u64) >> (16 * which) & 0xFFFF;
    let down = x.to_bits() >> 16;
    let share = x.to_bits() & 0xFFFF;
    bf16::from_bits((down + (u64::from(share) + chance > 0xFFFF) as u32) as u16)
}
