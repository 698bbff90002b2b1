//! The head fused with the log-probability of the taken token: `z = x w^T / temperature`, `p = softmax(z)`,
//! `logprob = ln p_target`, `entropy = -sum_v p_v ln p_v`; where a row has a mask, `z_v = -inf` for the tokens it forbids.

use crate::ops::gemm::oracle::gemm_nt;

/// ln softmax of one row.
pub(crate) fn log_softmax(z: &[f64]) -> Vec<f64> {
    let max = z.iter().fold(f64::NEG_INFINITY, |m, z| m.max(*z));
    let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
    z.iter().map(|z| z - lse).collect()
}

/// Masks `[U, ceil(V / 32)]`, and the mask of each row `[N]`, -1 for none; see [`crate::ops::logprob::Masks`].
pub type Masks<'a> = Option<(&'a [i32], &'a [i32])>;

/// Whether row `row` of a vocabulary of `vocab` may take token `v`.
fn may(masks: Masks, vocab: usize, row: usize, v: usize) -> bool {
    let of_row = masks.and_then(|(words, of)| Some((words, usize::try_from(of[row]).ok()?)));
    of_row.is_none_or(|(words, mask)| words[mask * vocab.div_ceil(32) + v / 32] as u32 >> (v % 32) & 1 == 1)
}

/// ln p of every row `[N, V]`; -inf for what may not come.
fn log_probs(x: &[f64], w: &[f64], masks: Masks, [n, dim]: [usize; 2], inv_temperature: f64) -> Vec<f64> {
    let v = w.len() / dim;
    let mut z: Vec<f64> = gemm_nt(x, w, n, v, dim).iter().map(|z| z * inv_temperature).collect();
    let forbidden = z.iter_mut().enumerate().filter(|(i, _)| !may(masks, v, i / v, i % v));
    forbidden.for_each(|(_, z)| *z = f64::NEG_INFINITY);
    z.chunks(v).flat_map(log_softmax).collect()
}

fn entropy_of(log_p: &[f64]) -> f64 {
    -log_p.iter().map(|l| if *l == f64::NEG_INFINITY { 0.0 } else { l.exp() * l }).sum::<f64>()
}

/// Returns logprob, lse, entropy `[N]` each; see [`crate::ops::logprob::linear_logprob_fwd`].
pub fn linear_logprob_fwd(
    x: &[f64],
    w: &[f64],
    target: &[i32],
    masks: Masks,
    dim: usize,
    inv_temperature: f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (n, v) = (target.len(), w.len() / dim);
    let log_p = log_probs(x, w, masks, [n, dim], inv_temperature);
    let logits = gemm_nt(x, w, n, v, dim);
    let at = |i: usize| i * v + target[i] as usize;
    let logprob = (0..n).map(|i| log_p[at(i)]).collect();
    let lse = (0..n).map(|i| logits[at(i)] * inv_temperature - log_p[at(i)]).collect();
    (logprob, lse, log_p.chunks(v).map(entropy_of).collect())
}

/// Returns dx `[N, C]` and dw `[V, C]`; see [`crate::ops::logprob::linear_logprob_bwd`].
///
/// `dz_v = dlogprob ([v = target] - p_v) - dentropy p_v (ln p_v + entropy)`, through the temperature and the product; 0 for
/// what may not come.
pub fn linear_logprob_bwd(
    dlogprob: &[f64],
    dentropy: &[f64],
    x: &[f64],
    w: &[f64],
    target: &[i32],
    masks: Masks,
    dim: usize,
    inv_temperature: f64,
) -> (Vec<f64>, Vec<f64>) {
    let (n, v) = (target.len(), w.len() / dim);
    let log_p = log_probs(x, w, masks, [n, dim], inv_temperature);
    let (mut dx, mut dw) = (vec![0.0; n * dim], vec![0.0; v * dim]);
    for row in 0..n {
        let log_p = &log_p[row * v..][..v];
        let entropy = entropy_of(log_p);
        for (j, l) in log_p.iter().enumerate().filter(|(_, l)| **l > f64::NEG_INFINITY) {
            let hit = if j == target[row] as usize { 1.0 } else { 0.0 };
            let dz = dlogprob[row] * (hit - l.exp()) - dentropy[row] * l.exp() * (l + entropy);
            for i in 0..dim {
                dx[row * dim + i] += inv_temperature * dz * w[j * dim + i];
                dw[j * dim + i] += inv_temperature * dz * x[row * dim + i];
            }
        }
    }
    (dx, dw)
}
