//! Products of rows that stand group by group: each group's plain product, see [`crate::ops::gemm::oracle`].

use crate::ops::gemm::oracle;

/// Where group e's rows stand.
fn rows(offsets: &[i32], e: usize) -> std::ops::Range<usize> {
    offsets[e] as usize..offsets[e + 1] as usize
}

/// `c_r = a_r b_e^T`; a `[R, K]`, b `[E, N, K]`; returns `[R, N]`.
pub fn gemm_grouped_nt(a: &[f64], b: &[f64], offsets: &[i32], n: usize, k: usize) -> Vec<f64> {
    let product = |e: usize| {
        let rows = rows(offsets, e);
        oracle::gemm_nt(&a[rows.start * k..rows.end * k], &b[e * n * k..][..n * k], rows.len(), n, k)
    };
    (0..offsets.len() - 1).flat_map(product).collect()
}

/// `c_r = a_r b_e`; a `[R, K]`, b `[E, K, N]`; returns `[R, N]`.
pub fn gemm_grouped_nn(a: &[f64], b: &[f64], offsets: &[i32], n: usize, k: usize) -> Vec<f64> {
    let product = |e: usize| {
        let rows = rows(offsets, e);
        oracle::gemm_nn(&a[rows.start * k..rows.end * k], &b[e * n * k..][..n * k], rows.len(), n, k)
    };
    (0..offsets.len() - 1).flat_map(product).collect()
}

/// `c_e = sum_r a_r^T b_r` over the rows of e; a `[R, M]`, b `[R, N]`; returns `[E, M, N]`.
pub fn gemm_grouped_tn(a: &[f64], b: &[f64], offsets: &[i32], m: usize, n: usize) -> Vec<f64> {
    let product = |e: usize| {
        let rows = rows(offsets, e);
        let (a, b) = (&a[rows.start * m..rows.end * m], &b[rows.start * n..rows.end * n]);
        oracle::gemm_tn(a, b, m, n, rows.len())
    };
    (0..offsets.len() - 1).flat_map(product).collect()
}
