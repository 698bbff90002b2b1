//! Rotary position embedding on the CPU.

use super::Cpu;

/// Rotates by `sign` times the angle; see [`crate::ops::rope`].
pub fn rope(_cpu: &Cpu, x: &mut [f32], positions: &[i32], table: &[f32], n_heads: usize, head_dim: usize, sign: f32) {
    let half = head_dim / 2;
    for (row, &pos) in positions.iter().enumerate() {
        let (cos, sin) = table[pos as usize * head_dim..][..head_dim].split_at(half);
        for head in 0..n_heads {
            let (a, b) = x[(row * n_heads + head) * head_dim..][..head_dim].split_at_mut(half);
            for d in 0..half {
                let (u, v, s) = (a[d], b[d], sin[d] * sign);
                a[d] = u * cos[d] - v * s;
                b[d] = v * cos[d] + u * s;
            }
        }
    }
}
