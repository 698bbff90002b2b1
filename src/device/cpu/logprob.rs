//! The fused head and log-probability on the CPU.

use super::{Cpu, gemm};
use crate::ops::gemm::Store;

/// Rows whose logits exist at a time.
pub const ROWS: usize = 64;

/// (max, sum of exp(z - max), sum of exp(z - max) z) of a row of scaled logits: the one order of these sums,
/// shared with sampling.
pub fn softmax_sums(z: &[f32]) -> (f32, f32, f32) {
    let max = z.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let (mut sum, mut dot) = (0f32, 0f32);
    for &v in z {
        let p = (v - max).exp();
        sum += p;
        dot = p.mul_add(v, dot);
    }
    (max, sum, dot)
}

/// See [`crate::ops::logprob::linear_logprob_fwd`].
pub fn linear_logprob_fwd(
    cpu: &Cpu,
    x: &[f32],
    w: &[f32],
    target: &[i32],
    logprob: &mut [f32],
    lse: &mut [f32],
    entropy: &mut [f32],
    workspace: &mut [f32],
    dim: usize,
    inv_temperature: f32,
) {
    let v = w.len() / dim;
    for start in (0..target.len()).step_by(ROWS) {
        let rows = ROWS.min(target.len() - start);
        gemm::gemm_nt(cpu, &x[start * dim..][..rows * dim], w, &mut workspace[..rows * v], rows, v, dim, Store::Set);
        for r in 0..rows {
            let z = &mut workspace[r * v..][..v];
            z.iter_mut().for_each(|z| *z *= inv_temperature);
            let (max, sum, dot) = softmax_sums(z);
            lse[start + r] = max + sum.ln();
            logprob[start + r] = z[target[start + r] as usize] - lse[start + r];
            entropy[start + r] = lse[start + r] - dot / sum;
        }
    }
}

/// See [`crate::ops::logprob::linear_logprob_bwd`].
pub fn linear_logprob_bwd(
    cpu: &Cpu,
    dlogprob: &[f32],
    dentropy: &[f32],
    x: &[f32],
    w: &[f32],
    target: &[i32],
    lse: &[f32],
    entropy: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
    workspace: &mut [f32],
    dim: usize,
    inv_temperature: f32,
) {
    let v = w.len() / dim;
    for start in (0..target.len()).step_by(ROWS) {
        let rows = ROWS.min(target.len() - start);
        let x = &x[start * dim..][..rows * dim];
        gemm::gemm_nt(cpu, x, w, &mut workspace[..rows * v], rows, v, dim, Store::Set);
        for r in 0..rows {
            let (n, z) = (start + r, &mut workspace[r * v..][..v]);
            for (j, z) in z.iter_mut().enumerate() {
                let log_p = *z * inv_temperature - lse[n];
                let p = log_p.exp();
                let hit = if j == target[n] as usize { dlogprob[n] } else { 0.0 };
                *z = inv_temperature * (hit - p * dlogprob[n] - dentropy[n] * p * (log_p + entropy[n]));
            }
        }
        let dz = &workspace[..rows * v];
        gemm::gemm_nn(cpu, dz, w, &mut dx[start * dim..][..rows * dim], rows, dim, v, Store::Set);
        gemm::gemm_tn(cpu, dz, x, dw, v, dim, rows, Store::Add);
    }
}
