//! Products of normed rows: `h = rmsnorm(x) w`, then `h w^T + b`, or SwiGLU of two of them.

use crate::ops::gemm::oracle::gemm_nt;
use crate::ops::norm::oracle::rmsnorm_fwd;
use crate::ops::swiglu::oracle::swiglu_fwd;

/// Returns `h w^T + b [M, N]` for each of the weights `[N, K]`; see [`crate::ops::gemm_fused::gemm_qkv`].
pub fn gemm_qkv(x: &[f64], norm: &[f64], eps: f64, parts: &[(&[f64], Option<&[f64]>)]) -> Vec<Vec<f64>> {
    let (h, _) = rmsnorm_fwd(x, norm, eps);
    let k = norm.len();
    let product = |(w, bias): &(&[f64], Option<&[f64]>)| {
        let n = w.len() / k;
        let mut y = gemm_nt(&h, w, x.len() / k, n, k);
        if let Some(bias) = bias {
            y.iter_mut().enumerate().for_each(|(i, y)| *y += bias[i % n]);
        }
        y
    };
    parts.iter().map(product).collect()
}

/// Returns gate, up and s, all `[M, N]`; see [`crate::ops::gemm_fused::gemm_swiglu`].
pub fn gemm_swiglu(x: &[f64], norm: &[f64], eps: f64, [wg, wu]: [&[f64]; 2]) -> [Vec<f64>; 3] {
    let mut both = gemm_qkv(x, norm, eps, &[(wg, None), (wu, None)]);
    let (up, gate) = (both.pop().unwrap_or_default(), both.pop().unwrap_or_default());
    let s = swiglu_fwd(&gate, &up);
    [gate, up, s]
}
