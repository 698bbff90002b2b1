//! Matrix products: `c_mn = sum_k a b`.

fn product(m: usize, n: usize, k: usize, a: impl Fn(usize, usize) -> f64, b: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..m * n).map(|at| (0..k).map(|p| a(at / n, p) * b(p, at % n)).sum()).collect()
}

/// `a b^T`; a `[M, K]`, b `[N, K]`; returns `[M, N]`.
pub fn gemm_nt(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    product(m, n, k, |i, p| a[i * k + p], |p, j| b[j * k + p])
}

/// `a b`; a `[M, K]`, b `[K, N]`; returns `[M, N]`.
pub fn gemm_nn(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    product(m, n, k, |i, p| a[i * k + p], |p, j| b[p * n + j])
}

/// `a^T b`; a `[K, M]`, b `[K, N]`; returns `[M, N]`.
pub fn gemm_tn(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    product(m, n, k, |i, p| a[p * m + i], |p, j| b[p * n + j])
}
