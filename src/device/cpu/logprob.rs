//! The fused head and log-probability on the CPU: logits of a block of rows, then each row's sums or gradient.

use super::Cpu;
use super::gemm::{self, Factor};
use super::math::{Isa, exp, ln};
use super::pool::Shared;
use super::softmax::softmax_sums;
use crate::ops::gemm::Store;

/// Logits that exist at a time, about; in f32 elements. They stay in the second-level cache.
const BLOCK: usize = 1 << 18;
/// Logits a task works on, about.
const TASK: usize = 1 << 13;

/// Rows whose logits exist at a time. Results do not depend on it.
pub fn block_rows(vocab: usize) -> usize {
    (BLOCK / vocab.max(1)).clamp(64, 512)
}

/// Calls `row(r, z)` for every row of `z [n_rows, V]`, in parallel.
fn each_row(cpu: &Cpu, z: &mut [f32], vocab: usize, row: impl Fn(usize, &mut [f32]) + Sync) {
    let n_rows = z.len() / vocab;
    let rows = (TASK / vocab).max(1);
    let z = Shared::new(z);
    cpu.pool.run(n_rows.div_ceil(rows), |task| {
        for r in task * rows..n_rows.min((task + 1) * rows) {
            // SAFETY: each row belongs to one task.
            row(r, unsafe { z.part(r * vocab, vocab) });
        }
    });
}

/// (lse, entropy, logprob of `target`) of a row of raw logits, which is scaled in place.
fn row_logprob(isa: Isa, z: &mut [f32], inv_temperature: f32, target: usize) -> (f32, f32, f32) {
    let (max, sum, dot) = isa.run(
        #[inline(always)]
        || {
            z.iter_mut().for_each(|z| *z *= inv_temperature);
            softmax_sums(z)
        },
    );
    let log_sum = ln(sum);
    let lse = max + log_sum;
    (lse, log_sum - dot / sum, z[target] - lse)
}

/// See [`crate::ops::logprob::linear_logprob_fwd`].
pub fn linear_logprob_fwd(
    cpu: &Cpu,
    x: Factor,
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
    let (logprob, lse, entropy) = (Shared::new(logprob), Shared::new(lse), Shared::new(entropy));
    for start in (0..target.len()).step_by(block_rows(v)) {
        let rows = block_rows(v).min(target.len() - start);
        let z = &mut workspace[..rows * v];
        let x = x.at(start * dim..(start + rows) * dim);
        gemm::gemm_nt(cpu, x, Factor::F32(w), None, z, rows, v, dim, Store::Set);
        each_row(cpu, z, v, |r, z| {
            let n = start + r;
            let (l, h, p) = row_logprob(cpu.isa, z, inv_temperature, target[n] as usize);
            // SAFETY: element n of each belongs to the task of row n.
            unsafe { (lse.part(n, 1)[0], entropy.part(n, 1)[0], logprob.part(n, 1)[0]) = (l, h, p) };
        });
    }
}

/// See [`crate::ops::logprob::linear_logprob_bwd`]. With p = softmax(z), H its entropy:
/// `dz = dlogprob (1[target] - p) - dentropy p (log p + H)`, `dx = dz w`, `dw += dz^T x`, all times the inverse
/// temperature.
pub fn linear_logprob_bwd(
    cpu: &Cpu,
    dlogprob: &[f32],
    dentropy: &[f32],
    x: Factor,
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
    for start in (0..target.len()).step_by(block_rows(v)) {
        let rows = block_rows(v).min(target.len() - start);
        let (x, dz) = (x.at(start * dim..(start + rows) * dim), &mut workspace[..rows * v]);
        gemm::gemm_nt(cpu, x, Factor::F32(w), None, dz, rows, v, dim, Store::Set);
        each_row(cpu, dz, v, |r, z| {
            let n = start + r;
            row_gradient(cpu.isa, z, inv_temperature, dlogprob[n], dentropy[n], lse[n], entropy[n]);
            z[target[n] as usize] += inv_temperature * dlogprob[n];
        });
        gemm::gemm_nn(
            cpu,
            Factor::F32(dz),
            Factor::F32(w),
            &mut dx[start * dim..][..rows * dim],
            rows,
            dim,
            v,
            Store::Set,
        );
        gemm::gemm_tn(cpu, Factor::F32(dz), x, dw, v, dim, rows, Store::Add);
    }
}

/// From raw logits to their gradient, but for the target's own term.
fn row_gradient(isa: Isa, z: &mut [f32], inv_temperature: f32, dlogprob: f32, dentropy: f32, lse: f32, entropy: f32) {
    isa.run(
        #[inline(always)]
        || {
            for z in z.iter_mut() {
                let log_p = *z * inv_temperature - lse;
                *z = -inv_temperature * exp(log_p) * dentropy.mul_add(log_p + entropy, dlogprob);
            }
        },
    );
}
