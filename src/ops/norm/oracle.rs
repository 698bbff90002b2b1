//! RMSNorm: `y_c = x_c rstd w_c`, `rstd = 1 / sqrt(mean_c(x_c^2) + eps)`.

/// Returns y `[N, C]` and rstd `[N]`; see [`crate::ops::norm::rmsnorm_fwd`].
pub fn rmsnorm_fwd(x: &[f64], w: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let c = w.len();
    let rstd = |row: &[f64]| 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / c as f64 + eps).sqrt();
    let rstd: Vec<f64> = x.chunks(c).map(rstd).collect();
    let y = (0..x.len()).map(|i| x[i] * rstd[i / c] * w[i % c]).collect();
    (y, rstd)
}

/// Returns dx `[N, C]` and dw `[C]`; see [`crate::ops::norm::rmsnorm_bwd`].
///
/// With `g = dy w`: `dx = rstd g - x rstd^3 mean_c(g x)`, `dw = sum_n dy x rstd`.
pub fn rmsnorm_bwd(dy: &[f64], x: &[f64], w: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let c = w.len();
    let (_, rstd) = rmsnorm_fwd(x, w, eps);
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; c]);
    for (row, r) in rstd.iter().enumerate() {
        let at = row * c;
        let mean = (0..c).map(|i| dy[at + i] * w[i] * x[at + i]).sum::<f64>() / c as f64;
        for i in 0..c {
            dx[at + i] = r * dy[at + i] * w[i] - x[at + i] * r.powi(3) * mean;
            dw[i] += dy[at + i] * x[at + i] * r;
        }
    }
    (dx, dw)
}
