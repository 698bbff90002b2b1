//! The oracle's own test: its backward functions against central differences, its forward ones against hand values.

use super::attn::oracle as attn;
use super::bias::oracle as bias;
use super::embed::oracle as embed;
use super::gemm::oracle as gemm;
use super::logprob::oracle as logprob;
use super::loss::oracle as loss;
use super::norm::oracle as norm;
use super::optim::oracle as optim;
use super::rope::oracle as rope;
use super::sample::oracle as sample;
use super::swiglu::oracle as swiglu;
use crate::noise::Noise;
use crate::ops::attn::{Heads, Sequences};
use crate::ops::loss::{Kl, Objective, PolicyLoss};

pub(super) fn normal(len: usize, stream: u64) -> Vec<f64> {
    (0..len as u64).map(|i| Noise::new(3, stream).normal(i)).collect()
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Holds `gradient` to the slope of `loss` along every axis of x: central differences of fourth order, relative error
/// (to the largest slope) below 1e-6.
#[track_caller]
pub(super) fn slopes(name: &str, x: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) {
    let scale = gradient.iter().fold(0f64, |m, g| m.max(g.abs()));
    assert!(scale > 1e-3 && x.len() == gradient.len(), "{name}: a gradient to compare with");
    for i in 0..x.len() {
        let at = |step: f64| {
            let mut x = x.to_vec();
            x[i] += step;
            loss(&x)
        };
        let h = 1e-3;
        let slope = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
        assert!((slope - gradient[i]).abs() < 1e-6 * scale, "{name}[{i}]: slope {slope}, gradient {}", gradient[i]);
    }
}

#[track_caller]
pub(super) fn equal(got: &[f64], want: &[f64]) {
    assert!(got.len() == want.len() && got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?} != {want:?}");
}

#[test]
fn gemm_by_hand() {
    let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
    equal(&gemm::gemm_nn(&a, &b, 2, 2, 2), &[19.0, 22.0, 43.0, 50.0]);
    equal(&gemm::gemm_nt(&a, &b, 2, 2, 2), &[17.0, 23.0, 39.0, 53.0]);
    equal(&gemm::gemm_tn(&a, &b, 2, 2, 2), &[26.0, 30.0, 38.0, 44.0]);
}

#[test]
fn gemm_gradients_are_the_other_two_products() {
    let (m, n, k) = (3, 4, 5);
    let (a, b, dc) = (normal(m * k, 1), normal(n * k, 2), normal(m * n, 3));
    slopes("da", &a, &gemm::gemm_nn(&dc, &b, m, k, n), |a| dot(&dc, &gemm::gemm_nt(a, &b, m, n, k)));
    slopes("db", &b, &gemm::gemm_tn(&dc, &a, n, k, m), |b| dot(&dc, &gemm::gemm_nt(&a, b, m, n, k)));
}

#[test]
fn rmsnorm_by_hand_and_slopes() {
    let (y, rstd) = norm::rmsnorm_fwd(&[3.0, 4.0], &[2.0, 1.0], 0.0);
    equal(&rstd, &[1.0 / 12.5f64.sqrt()]);
    equal(&y, &[6.0 * rstd[0], 4.0 * rstd[0]]);
    let (x, w, dy) = (normal(15, 1), normal(5, 2), normal(15, 3));
    let (dx, dw) = norm::rmsnorm_bwd(&dy, &x, &w, 0.1);
    slopes("dx", &x, &dx, |x| dot(&dy, &norm::rmsnorm_fwd(x, &w, 0.1).0));
    slopes("dw", &w, &dw, |w| dot(&dy, &norm::rmsnorm_fwd(&x, w, 0.1).0));
}

#[test]
fn bias_by_hand_and_slopes() {
    equal(&bias::bias_fwd(&[1.0, 2.0], 2), &[1.0, 2.0, 1.0, 2.0]);
    let (b, dy) = (normal(5, 1), normal(15, 2));
    slopes("db", &b, &bias::bias_bwd(&dy, 5), |b| dot(&dy, &bias::bias_fwd(b, 3)));
}

#[test]
fn rope_by_hand_and_slopes() {
    // D = 2: one pair, turned by the position in radians.
    equal(&rope::rope_fwd(&[1.0, 0.0], &[1], 1, 2, 1e4), &[1f64.cos(), 1f64.sin()]);
    let (x, dy, pos) = (normal(24, 1), normal(24, 2), [0, 5, 900]);
    let dx = rope::rope_bwd(&dy, &pos, 2, 4, 1e4);
    slopes("dx", &x, &dx, |x| dot(&dy, &rope::rope_fwd(x, &pos, 2, 4, 1e4)));
}

#[test]
fn swiglu_by_hand_and_slopes() {
    equal(&swiglu::swiglu_fwd(&[0.0, 3f64.ln()], &[5.0, 2.0]), &[0.0, 1.5 * 3f64.ln()]);
    let (gate, up, dh) = (normal(9, 1), normal(9, 2), normal(9, 3));
    let (dgate, dup) = swiglu::swiglu_bwd(&dh, &gate, &up);
    slopes("dgate", &gate, &dgate, |gate| dot(&dh, &swiglu::swiglu_fwd(gate, &up)));
    slopes("dup", &up, &dup, |up| dot(&dh, &swiglu::swiglu_fwd(&gate, up)));
}

#[test]
fn embed_by_hand_and_slopes() {
    equal(&embed::embed_fwd(&[1, 0, 1], &[1.0, 2.0, 3.0, 4.0], 2), &[3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
    let (table, dx, ids) = (normal(8, 1), normal(6, 2), [3, 0, 3]);
    let dtable = embed::embed_bwd(&ids, &dx, 4, 2);
    slopes("dtable", &table, &dtable, |table| dot(&dx, &embed::embed_fwd(&ids, table, 2)));
}

#[test]
fn attn_by_hand_and_slopes() {
    // Two equal keys: the second query sees their mean.
    let heads = Heads { q: 1, kv: 1, dim: 1, scale: 1.0 };
    let (o, lse) = attn::attn_fwd(&[1.0, 1.0], &[2.0, 2.0], &[3.0, 5.0], Sequences::apart(&[0, 2]), heads);
    equal(&o, &[3.0, 4.0]);
    equal(&lse, &[2.0, 2.0 + 2f64.ln()]);
    let heads = Heads { q: 4, kv: 2, dim: 3, scale: 0.5 };
    let (q, k, v, d_o) = (normal(60, 1), normal(30, 2), normal(30, 3), normal(60, 4));
    // Two sequences; then one with two more on its first three rows and on its first one.
    let shared = Sequences { cu: &[0, 3, 4, 5], prefixes: &[0, 0, 0, 3, 0, 1] };
    for seqs in [Sequences::apart(&[0, 4, 5]), shared] {
        let (dq, dk, dv) = attn::attn_bwd(&d_o, &q, &k, &v, seqs, heads);
        slopes("dq", &q, &dq, |q| dot(&d_o, &attn::attn_fwd(q, &k, &v, seqs, heads).0));
        slopes("dk", &k, &dk, |k| dot(&d_o, &attn::attn_fwd(&q, k, &v, seqs, heads).0));
        slopes("dv", &v, &dv, |v| dot(&d_o, &attn::attn_fwd(&q, &k, v, seqs, heads).0));
    }
}

#[test]
fn linear_logprob_by_hand_and_slopes() {
    // Logits 0 and ln 3 at temperature 1: probabilities 1/4 and 3/4.
    let (lp, lse, h) = logprob::linear_logprob_fwd(&[1.0], &[0.0, 3f64.ln()], &[1], None, 1, 1.0);
    equal(&lp, &[0.75f64.ln()]);
    equal(&lse, &[4f64.ln()]);
    equal(&h, &[-0.25 * 0.25f64.ln() - 0.75 * 0.75f64.ln()]);
    let (x, w, target) = (normal(12, 1), normal(20, 2), [0, 4, 2]);
    let (d_lp, d_h) = (normal(3, 3), normal(3, 4));
    let (dx, dw) = logprob::linear_logprob_bwd(&d_lp, &d_h, &x, &w, &target, None, 4, 0.7);
    let loss = |x: &[f64], w: &[f64]| {
        let (lp, _, h) = logprob::linear_logprob_fwd(x, w, &target, None, 4, 0.7);
        dot(&d_lp, &lp) + dot(&d_h, &h)
    };
    slopes("dx", &x, &dx, |x| loss(x, &w));
    slopes("dw", &w, &dw, |w| loss(&x, w));
}

#[test]
fn linear_logprob_under_masks_by_hand_and_slopes() {
    // Logits 0, ln 3 and ln 9, the last of which may not come: 1/4 and 3/4 of what may.
    let w = [0.0, 3f64.ln(), 9f64.ln()];
    let (lp, lse, h) = logprob::linear_logprob_fwd(&[1.0], &w, &[1], Some((&[0b011][..], &[0][..])), 1, 1.0);
    equal(&lp, &[0.75f64.ln()]);
    equal(&lse, &[4f64.ln()]);
    equal(&h, &[-0.25 * 0.25f64.ln() - 0.75 * 0.75f64.ln()]);
    // Where one token may come, nothing is learned.
    let (dx, dw) =
        logprob::linear_logprob_bwd(&[2.0], &[3.0], &[1.0], &w, &[1], Some((&[0b010][..], &[0][..])), 1, 1.0);
    equal(&[dx, dw].concat(), &[0.0; 4]);
    // Two masks of five tokens, a row without one, a mask of two rows.
    let (x, w, target) = (normal(16, 1), normal(20, 2), [0, 4, 2, 3]);
    let masks = Some((&[0b10011, 0b01101][..], &[0, -1, 1, 1][..]));
    let (d_lp, d_h) = (normal(4, 3), normal(4, 4));
    let (dx, dw) = logprob::linear_logprob_bwd(&d_lp, &d_h, &x, &w, &target, masks, 4, 0.7);
    let loss = |x: &[f64], w: &[f64]| {
        let (lp, _, h) = logprob::linear_logprob_fwd(x, w, &target, masks, 4, 0.7);
        dot(&d_lp, &lp) + dot(&d_h, &h)
    };
    slopes("dx", &x, &dx, |x| loss(x, &w));
    slopes("dw", &w, &dw, |w| loss(&x, w));
    // Of the first row alone: the tokens that it forbids get nothing.
    let (_, dw) = logprob::linear_logprob_bwd(&d_lp[..1], &d_h[..1], &x[..4], &w, &[0], masks, 4, 0.7);
    assert!(dw[8..16].iter().all(|d| *d == 0.0) && dw[..8].iter().all(|d| *d != 0.0), "{dw:?}");
}

#[test]
fn policy_loss_by_hand_and_slopes() {
    let how = PolicyLoss { clip_low: 0.25, clip_high: 0.5, ..PolicyLoss::default() };
    // Ratio 2, advantage 1: clipped at 1.5. Ratio 2, advantage -1: not clipped. Ratio 1/2, advantage -1: clipped.
    let lp = [2f64.ln(), 2f64.ln(), 0.5f64.ln()];
    let (d, _, sums) = policy(&lp, &[0.0; 3], &[1.0, -1.0, -1.0], how);
    equal(&d, &[0.0, 2.0, 0.0]);
    equal(&sums, &[-1.5 + 2.0 + 0.75, -1.5 + 2.0 + 0.75, 0.0, 0.3, 2.0, 1.0]);
    let how = PolicyLoss { clip_low: 0.25, clip_high: 0.5, kl: 0.125, entropy: 0.0625, ..PolicyLoss::default() };
    let (lp, reference, a) = (normal(12, 1), normal(12, 2), normal(12, 3));
    let (d, dh, sums) = policy(&lp, &reference, &a, how);
    assert!(sums[4] > 0.5 && sums[4] < 11.5, "some are clipped, some are not");
    slopes("dlogprob", &lp, &d, |lp| policy(lp, &reference, &a, how).2[0]);
    equal(&dh, &[-0.0625; 12]);
    for (dual_clip, kl_estimator) in [(1.5, Kl::K1), (2.5, Kl::K2)] {
        let how = PolicyLoss { dual_clip, kl_estimator, ..how };
        let (d, _, _) = policy(&lp, &reference, &a, how);
        slopes("dlogprob", &lp, &d, |lp| policy(lp, &reference, &a, how).2[0]);
    }
}

#[test]
fn dual_clip_and_cispo_by_hand() {
    // Ratio 4, advantage -1: the loss of 4 stops at 3; with a positive advantage nothing changes.
    let how = PolicyLoss { dual_clip: 3.0, clip_high: 0.25, ..PolicyLoss::default() };
    let lp = [4f64.ln(), 2f64.ln(), 4f64.ln()];
    let (d, _, sums) = policy(&lp, &[0.0; 3], &[-1.0, -1.0, 1.0], how);
    equal(&d, &[0.0, 2.0, 0.0]);
    equal(&sums[1..2], &[3.0 + 2.0 - 1.25]);
    // CISPO: ratios 4 and 1/4 count as 1.5 and 0.75, the gradient goes on; the value is no primitive of it.
    let how = PolicyLoss { clip_low: 0.25, clip_high: 0.5, objective: Objective::Cispo, ..PolicyLoss::default() };
    let lp = [4f64.ln(), 0.25f64.ln(), 0.0];
    let (d, _, sums) = policy(&lp, &[0.0; 3], &[1.0, 1.0, -1.0], how);
    equal(&d, &[-1.5, -0.75, 1.0]);
    equal(&sums[1..2], &[-1.5 * lp[0] - 0.75 * lp[1]]);
    equal(&sums[4..5], &[2.0]);
}

fn policy(lp: &[f64], reference: &[f64], a: &[f64], how: PolicyLoss) -> (Vec<f64>, Vec<f64>, [f64; 6]) {
    let n = lp.len();
    loss::policy_loss(lp, &vec![0.0; n], reference, a, &vec![1.0; n], &vec![0.1; n], how)
}

#[test]
fn adamw_by_hand() {
    use crate::ops::optim::AdamW;
    let mut how =
        AdamW { lr: 0.5, beta1: 0.5, beta2: 0.75, eps: 0.0, weight_decay: 0.25, grad_scale: 1.0, step: 1, element: 0 };
    // The first step moves by lr times the gradient's sign, whatever its size, and by the decay.
    let (w, m, v) = optim::adamw_step(&[3.0, -0.1], &[2.0, 2.0], &[0.0; 2], &[0.0; 2], how);
    equal(&w, &[2.0 - 0.5 * (1.0 + 0.5), 2.0 - 0.5 * (-1.0 + 0.5)]);
    equal(&m, &[1.5, -0.05]);
    equal(&v, &[2.25, 0.0025]);
    how.step = 2;
    how.grad_scale = 0.5;
    let (w, m, v) = optim::adamw_step(&[2.0], &[0.0], &[1.0], &[4.0], how);
    equal(&m, &[1.0]);
    equal(&v, &[3.25]);
    equal(&w, &[-0.5 * (1.0 / 0.75) / (3.25f64 / 0.4375).sqrt()]);
    equal(&[optim::grad_norm(&[3.0, 4.0])], &[25.0]);
}

#[test]
fn sample_sets_by_hand() {
    let logits: Vec<f64> = [0.1f64, 0.4, 0.2, 0.3].iter().map(|p| p.ln()).collect();
    let all = sample::Row { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
    equal(&sample::sample(&logits, all).0, &[0.1, 0.4, 0.2, 0.3]);
    equal(&sample::sample(&logits, sample::Row { top_k: 2, ..all }).0, &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
    equal(&sample::sample(&logits, sample::Row { top_p: 0.6, ..all }).0, &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
    equal(&sample::sample(&logits, sample::Row { min_p: 0.45, ..all }).0, &[0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0]);
    equal(&sample::sample(&logits, sample::Row { temperature: 0.0, ..all }).0, &[0.0, 1.0, 0.0, 0.0]);
    // Half the temperature squares the odds.
    let (cold, log_p) = sample::sample(&logits, sample::Row { temperature: 0.5, ..all });
    equal(&cold, &[0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3]);
    equal(&log_p, &cold.iter().map(|p| p.ln()).collect::<Vec<_>>());
}
