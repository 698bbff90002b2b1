//! A mixture of experts: `p = softmax(z)`, `y += sum_i g_i out_i` over the A experts of the largest z.

use crate::ops::gemm::Store;

/// Returns probs `[N, E]`, experts `[N, A]` and gates `[N, A]`; see [`crate::ops::moe::route_topk_fwd`].
pub fn route_topk_fwd(logits: &[f64], e: usize, a: usize, normalise: bool) -> (Vec<f64>, Vec<i32>, Vec<f64>) {
    let (mut probs, mut experts, mut gates) = (vec![], vec![], vec![]);
    for z in logits.chunks(e) {
        let max = z.iter().fold(f64::NEG_INFINITY, |m, z| m.max(*z));
        let sum: f64 = z.iter().map(|z| (z - max).exp()).sum();
        let p: Vec<f64> = z.iter().map(|z| (z - max).exp() / sum).collect();
        let mut ids: Vec<usize> = (0..e).collect();
        ids.sort_by(|i, j| z[*j].total_cmp(&z[*i]));
        let total = if normalise { ids[..a].iter().map(|i| p[*i]).sum() } else { 1.0 };
        experts.extend(ids[..a].iter().map(|i| *i as i32));
        gates.extend(ids[..a].iter().map(|i| p[*i] / total));
        probs.extend(p);
    }
    (probs, experts, gates)
}

/// Returns dlogits `[N, E]`; see [`crate::ops::moe::route_topk_bwd`]: the chain rule through the division, then through the
/// softmax.
pub fn route_topk_bwd(dgates: &[f64], probs: &[f64], experts: &[i32], e: usize, a: usize, normalise: bool) -> Vec<f64> {
    let mut dlogits = vec![];
    for (n, p) in probs.chunks(e).enumerate() {
        let (ids, d) = (&experts[n * a..][..a], &dgates[n * a..][..a]);
        let total: f64 = if normalise { ids.iter().map(|i| p[*i as usize]).sum() } else { 1.0 };
        // gate_i = p_i / total
        let lost: f64 = ids.iter().zip(d).map(|(i, d)| d * p[*i as usize] / (total * total)).sum();
        let mut dp = vec![0.0; e];
        for (i, d) in ids.iter().zip(d) {
            dp[*i as usize] = d / total - if normalise { lost } else { 0.0 };
        }
        dlogits.extend(softmax_bwd(&dp, p));
    }
    dlogits
}

/// `dz_e = p_e (dp_e - sum_i p_i dp_i)`
fn softmax_bwd(dp: &[f64], p: &[f64]) -> Vec<f64> {
    let dot: f64 = dp.iter().zip(p).map(|(d, p)| d * p).sum();
    dp.iter().zip(p).map(|(d, p)| p * (d - dot)).collect()
}

/// Returns order `[R]`, place `[R]` and offsets `[E + 1]`; see [`crate::ops::moe::moe_sort`].
pub fn moe_sort(experts: &[i32], e: usize) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
    let mut order: Vec<i32> = (0..experts.len() as i32).collect();
    order.sort_by_key(|row| experts[*row as usize]);
    let mut place = vec![0; order.len()];
    order.iter().enumerate().for_each(|(at, row)| place[*row as usize] = at as i32);
    let offsets = (0..=e as i32).map(|e| experts.iter().filter(|own| **own < e).count() as i32).collect();
    (order, place, offsets)
}

/// Returns xs `[R, C]` for A experts a token; see [`crate::ops::moe::moe_gather_fwd`].
pub fn moe_gather_fwd(x: &[f64], order: &[i32], a: usize, c: usize) -> Vec<f64> {
    order.iter().flat_map(|row| &x[*row as usize / a * c..][..c]).copied().collect()
}

/// Returns dx `[N, C]`, added to `start` or not; see [`crate::ops::moe::moe_gather_bwd`].
pub fn moe_gather_bwd(dxs: &[f64], place: &[i32], start: &[f64], a: usize, c: usize, store: Store) -> Vec<f64> {
    let mut dx = if store == Store::Add { start.to_vec() } else { vec![0.0; start.len()] };
    for (row, at) in place.iter().enumerate() {
        (0..c).for_each(|i| dx[row / a * c + i] += dxs[*at as usize * c + i]);
    }
    dx
}

/// Returns y `[N, C]`, from what stood there; see [`crate::ops::moe::moe_combine_fwd`].
pub fn moe_combine_fwd(out: &[f64], gates: &[f64], place: &[i32], y: &[f64], a: usize, c: usize) -> Vec<f64> {
    let mut y = y.to_vec();
    for (row, at) in place.iter().enumerate() {
        (0..c).for_each(|i| y[row / a * c + i] += gates[row] * out[*at as usize * c + i]);
    }
    y
}

/// Returns dout `[R, C]` and dgates `[N, A]`; see [`crate::ops::moe::moe_combine_bwd`].
pub fn moe_combine_bwd(
    dy: &[f64],
    out: &[f64],
    gates: &[f64],
    place: &[i32],
    a: usize,
    c: usize,
) -> (Vec<f64>, Vec<f64>) {
    let (mut dout, mut dgates) = (vec![0.0; out.len()], vec![0.0; gates.len()]);
    for (row, at) in place.iter().enumerate() {
        for i in 0..c {
            let (d, at) = (dy[row / a * c + i], *at as usize * c + i);
            dout[at] = gates[row] * d;
            dgates[row] += d * out[at];
        }
    }
    (dout, dgates)
}

/// Returns mean `[E]` and the loss; see [`crate::ops::moe::route_balance_fwd`].
pub fn route_balance_fwd(probs: &[f64], counts: &[i32]) -> (Vec<f64>, f64) {
    let (e, n) = (counts.len(), (probs.len() / counts.len()) as f64);
    let mean: Vec<f64> = (0..e).map(|i| probs.iter().skip(i).step_by(e).sum::<f64>() / n).collect();
    let loss = e as f64 * mean.iter().zip(counts).map(|(mean, count)| *count as f64 / n * mean).sum::<f64>();
    (mean, loss)
}

/// Returns what is added to dlogits `[N, E]`; see [`crate::ops::moe::route_balance_bwd`].
pub fn route_balance_bwd(probs: &[f64], counts: &[i32], weight: f64) -> Vec<f64> {
    let (e, n) = (counts.len() as f64, (probs.len() / counts.len()) as f64);
    let dp: Vec<f64> = counts.iter().map(|count| weight * e * *count as f64 / n / n).collect();
    probs.chunks(counts.len()).flat_map(|p| softmax_bwd(&dp, p)).collect()
}
