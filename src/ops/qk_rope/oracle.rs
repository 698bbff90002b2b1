//! Heads between projection and attention: a norm over the elements of each, then a rotation by the row's position.

use crate::ops::norm::oracle::rmsnorm_fwd;
use crate::ops::rope::oracle::rope_fwd;

/// Returns x `[N, H, D]`, normed by `w [D]` where there is one, and turned; see [`crate::ops::qk_rope::qk_rope_fwd`].
pub fn qk_rope_fwd(x: &[f64], w: Option<&[f64]>, positions: &[i32], n_heads: usize, theta: f64, eps: f64) -> Vec<f64> {
    let head_dim = x.len() / (positions.len() * n_heads).max(1);
    let normed = w.map_or_else(|| x.to_vec(), |w| rmsnorm_fwd(x, w, eps).0);
    rope_fwd(&normed, positions, n_heads, head_dim, theta)
}

/// Returns q and the keys of new rows, as they are in their slots; see [`crate::ops::qk_rope::qk_rope_append`].
pub fn qk_rope_append(
    [q, k]: [&[f64]; 2],
    [wq, wk]: [Option<&[f64]>; 2],
    positions: &[i32],
    [n_heads, n_kv_heads]: [usize; 2],
    theta: f64,
    eps: f64,
) -> [Vec<f64>; 2] {
    [qk_rope_fwd(q, wq, positions, n_heads, theta, eps), qk_rope_fwd(k, wk, positions, n_kv_heads, theta, eps)]
}
