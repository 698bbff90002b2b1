//! Matrix products on the CPU.

use super::Cpu;
use crate::ops::gemm::Store;

fn naive(
    c: &mut [f32],
    m: usize,
    n: usize,
    k: usize,
    store: Store,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) {
    for i in 0..m {
        for j in 0..n {
            let start = if store == Store::Add { c[i * n + j] } else { 0.0 };
            c[i * n + j] = (0..k).fold(start, |s, p| a(i, p).mul_add(b(p, j), s));
        }
    }
}

/// See [`crate::ops::gemm::gemm_nt`].
pub fn gemm_nt(_cpu: &Cpu, a: &[f32], b: &[f32], c: &mut [f32], m: usize, n: usize, k: usize, store: Store) {
    naive(c, m, n, k, store, |i, p| a[i * k + p], |p, j| b[j * k + p]);
}

/// See [`crate::ops::gemm::gemm_nn`].
pub fn gemm_nn(_cpu: &Cpu, a: &[f32], b: &[f32], c: &mut [f32], m: usize, n: usize, k: usize, store: Store) {
    naive(c, m, n, k, store, |i, p| a[i * k + p], |p, j| b[p * n + j]);
}

/// See [`crate::ops::gemm::gemm_tn`].
pub fn gemm_tn(_cpu: &Cpu, a: &[f32], b: &[f32], c: &mut [f32], m: usize, n: usize, k: usize, store: Store) {
    naive(c, m, n, k, store, |i, p| a[p * m + i], |p, j| b[p * n + j]);
}
