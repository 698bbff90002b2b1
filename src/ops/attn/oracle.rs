//! Causal grouped-query attention: `o_i = sum_{j <= i} p_ij v_j`, `p_ij = exp(scale q_i k_j - lse_i)`,
//! `lse_i = ln sum_{j <= i} exp(scale q_i k_j)`; i, j positions of one sequence, query head h reads kv head `h / (H / Hk)`.
//! Sequences that share a prefix share its rows: what they make of its keys and values is summed.

use crate::ops::attn::{Heads, Sequence, Sequences};

/// Scores of one query: (position in k and v of each key it sees, scaled score).
fn scores(q: &[f64], k: &[f64], seq: Sequence, position: usize, head: usize, heads: Heads) -> Vec<(usize, f64)> {
    let (d, kv) = (heads.dim, head / (heads.q / heads.kv));
    let q = &q[(seq.row(position) * heads.q + head) * d..][..d];
    let score = |key: usize| {
        let at = (seq.row(key) * heads.kv + kv) * d;
        let dot: f64 = (0..d).map(|i| q[i] * k[at + i]).sum();
        (at, heads.scale as f64 * dot)
    };
    (0..=position).map(score).collect()
}

fn log_sum_exp(s: &[(usize, f64)]) -> f64 {
    let max = s.iter().fold(f64::NEG_INFINITY, |m, s| m.max(s.1));
    max + s.iter().map(|s| (s.1 - max).exp()).sum::<f64>().ln()
}

/// Returns o `[N, H, D]` and lse `[N, H]`; see [`crate::ops::attn::attn_fwd`].
pub fn attn_fwd(q: &[f64], k: &[f64], v: &[f64], seqs: Sequences, heads: Heads) -> (Vec<f64>, Vec<f64>) {
    let d = heads.dim;
    let mut o = vec![0.0; q.len()];
    let mut lse = vec![0.0; q.len() / d];
    for seq in (0..seqs.len()).map(|s| seqs.at(s)) {
        for position in seq.prefix..seq.len() {
            for head in 0..heads.q {
                let s = scores(q, k, seq, position, head, heads);
                let at = seq.row(position) * heads.q + head;
                lse[at] = log_sum_exp(&s);
                for (key, s) in s {
                    let p = (s - lse[at]).exp();
                    (0..d).for_each(|i| o[at * d + i] += p * v[key + i]);
                }
            }
        }
    }
    (o, lse)
}

/// Returns dq `[N, H, D]`, dk and dv `[N, Hk, D]`; see [`crate::ops::attn::attn_bwd`].
///
/// `dv_j = sum_i p_ij do_i`, `ds_ij = p_ij (do_i v_j - do_i o_i)`, `dq_i = scale sum_j ds_ij k_j`,
/// `dk_j = scale sum_i ds_ij q_i`.
pub fn attn_bwd(
    d_o: &[f64],
    q: &[f64],
    k: &[f64],
    v: &[f64],
    seqs: Sequences,
    heads: Heads,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (d, scale) = (heads.dim, heads.scale as f64);
    let (o, lse) = attn_fwd(q, k, v, seqs, heads);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for seq in (0..seqs.len()).map(|s| seqs.at(s)) {
        for position in seq.prefix..seq.len() {
            for head in 0..heads.q {
                let at = seq.row(position) * heads.q + head;
                let d_o = &d_o[at * d..][..d];
                let delta: f64 = (0..d).map(|i| d_o[i] * o[at * d + i]).sum();
                for (key, s) in scores(q, k, seq, position, head, heads) {
                    let p = (s - lse[at]).exp();
                    let dp: f64 = (0..d).map(|i| d_o[i] * v[key + i]).sum();
                    let ds = p * (dp - delta) * scale;
                    for i in 0..d {
                        dv[key + i] += p * d_o[i];
                        dq[at * d + i] += ds * k[key + i];
                        dk[key + i] += ds * q[at * d + i];
                    }
                }
            }
        }
    }
    (dq, dk, dv)
}
