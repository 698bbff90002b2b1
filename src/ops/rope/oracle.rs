//! Rotary position embedding: each pair `(x_d, x_{d + D/2})` turns by `position theta^(-2d/D)`.
//!
//! Frequency and angle are f32 numbers by definition, see [`crate::ops::rope::table`]; the turn itself is exact.

fn rotate(x: &[f64], positions: &[i32], n_heads: usize, head_dim: usize, theta: f64, sign: f64) -> Vec<f64> {
    let half = head_dim / 2;
    let mut y = x.to_vec();
    for head in 0..positions.len() * n_heads {
        for d in 0..half {
            let frequency = 1.0 / theta.powf(2.0 * d as f64 / head_dim as f64) as f32;
            let angle = sign * (positions[head / n_heads] as f32 * frequency) as f64;
            let (a, b) = (head * head_dim + d, head * head_dim + d + half);
            y[a] = x[a] * angle.cos() - x[b] * angle.sin();
            y[b] = x[b] * angle.cos() + x[a] * angle.sin();
        }
    }
    y
}

/// Returns the turned x `[N, H, D]`; see [`crate::ops::rope::rope_fwd`].
pub fn rope_fwd(x: &[f64], positions: &[i32], n_heads: usize, head_dim: usize, theta: f64) -> Vec<f64> {
    rotate(x, positions, n_heads, head_dim, theta, 1.0)
}

/// Returns dx `[N, H, D]`; see [`crate::ops::rope::rope_bwd`]: a rotation's transpose turns back.
pub fn rope_bwd(dx: &[f64], positions: &[i32], n_heads: usize, head_dim: usize, theta: f64) -> Vec<f64> {
    rotate(dx, positions, n_heads, head_dim, theta, -1.0)
}
