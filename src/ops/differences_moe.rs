//! The oracle's own test, beside [`super::differences`]: a mixture of experts.

use super::differences::{dot, equal, normal, slopes};
use crate::ops::gemm::Store;
use crate::ops::gemm_grouped::oracle as grouped;
use crate::ops::moe::oracle as moe;

#[test]
fn route_topk_by_hand_and_slopes() {
    let logits: Vec<f64> = [0.1f64, 0.4, 0.2, 0.3].iter().map(|p| p.ln()).collect();
    let (probs, experts, gates) = moe::route_topk_fwd(&logits, 4, 2, false);
    equal(&probs, &[0.1, 0.4, 0.2, 0.3]);
    assert_eq!(experts, [1, 3]);
    equal(&gates, &[0.4, 0.3]);
    equal(&moe::route_topk_fwd(&logits, 4, 2, true).2, &[4.0 / 7.0, 3.0 / 7.0]);
    // Of equal ones the lower comes first.
    assert_eq!(moe::route_topk_fwd(&[1.0, 2.0, 2.0, 1.0], 4, 3, true).1, [1, 2, 0]);
    let (logits, dgates) = (normal(15, 1), normal(6, 2));
    for normalise in [false, true] {
        let (probs, experts, _) = moe::route_topk_fwd(&logits, 5, 2, normalise);
        let dlogits = moe::route_topk_bwd(&dgates, &probs, &experts, 5, 2, normalise);
        slopes("dlogits", &logits, &dlogits, |z| dot(&dgates, &moe::route_topk_fwd(z, 5, 2, normalise).2));
    }
}

#[test]
fn moe_sort_by_hand() {
    let (order, place, offsets) = moe::moe_sort(&[2, 0, 0, 1], 4);
    assert_eq!(order, [1, 2, 3, 0]);
    assert_eq!(place, [3, 0, 1, 2]);
    assert_eq!(offsets, [0, 2, 3, 4, 4]);
}

#[test]
fn moe_rows_by_hand_and_slopes() {
    // Two tokens of two experts each, one column.
    let (order, place, _) = moe::moe_sort(&[2, 0, 0, 1], 4);
    equal(&moe::moe_gather_fwd(&[5.0, 7.0], &order, 2, 1), &[5.0, 7.0, 7.0, 5.0]);
    equal(&moe::moe_gather_bwd(&[1.0, 2.0, 3.0, 4.0], &place, &[10.0, 20.0], 2, 1, Store::Add), &[15.0, 25.0]);
    let y = moe::moe_combine_fwd(&[1.0, 2.0, 3.0, 4.0], &[0.5, 0.25, 2.0, 1.0], &place, &[10.0, 20.0], 2, 1);
    equal(&y, &[10.0 + 0.5 * 4.0 + 0.25, 20.0 + 2.0 * 2.0 + 3.0]);
    let (x, d, gates) = (normal(6, 1), normal(12, 2), normal(4, 3));
    let dx = moe::moe_gather_bwd(&d, &place, &x, 2, 3, Store::Set);
    slopes("dx", &x, &dx, |x| dot(&d, &moe::moe_gather_fwd(x, &order, 2, 3)));
    let (dy, out) = (normal(6, 4), normal(12, 5));
    let (dout, dgates) = moe::moe_combine_bwd(&dy, &out, &gates, &place, 2, 3);
    slopes("dout", &out, &dout, |out| dot(&dy, &moe::moe_combine_fwd(out, &gates, &place, &x, 2, 3)));
    slopes("dgates", &gates, &dgates, |gates| dot(&dy, &moe::moe_combine_fwd(&out, gates, &place, &x, 2, 3)));
}

#[test]
fn route_balance_by_hand_and_slopes() {
    // Evenly routed, whatever E: the loss is A. All to one of four experts that is always likeliest: E.
    equal(&[moe::route_balance_fwd(&[0.25; 8], &[1, 1, 1, 1]).1], &[2.0]);
    equal(&[moe::route_balance_fwd(&[1.0, 0.0, 0.0, 0.0], &[1, 0, 0, 0]).1], &[4.0]);
    let (mean, loss) = moe::route_balance_fwd(&[0.5, 0.5, 0.25, 0.75], &[1, 3]);
    equal(&mean, &[0.375, 0.625]);
    equal(&[loss], &[2.0 * (0.5 * 0.375 + 1.5 * 0.625)]);
    let (logits, counts) = (normal(12, 1), [3, 0, 1, 2]);
    let probs = |logits: &[f64]| moe::route_topk_fwd(logits, 4, 1, false).0;
    let dlogits = moe::route_balance_bwd(&probs(&logits), &counts, 0.5);
    slopes("dlogits", &logits, &dlogits, |z| 0.5 * moe::route_balance_fwd(&probs(z), &counts).1);
}

#[test]
fn gemm_grouped_by_hand_and_slopes() {
    // Three rows of two: one of the first expert, none of the second, two of the third.
    let (a, offsets) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0, 1, 1, 3]);
    let b = [1.0, 10.0, 0.0, 0.0, 100.0, 1.0];
    equal(&grouped::gemm_grouped_nt(&a, &b, &offsets, 1, 2), &[21.0, 304.0, 506.0]);
    let product = grouped::gemm_grouped_nn(&[1.0, 2.0, 3.0], &b, &offsets, 2, 1);
    equal(&product, &[1.0, 10.0, 200.0, 2.0, 300.0, 3.0]);
    let product = grouped::gemm_grouped_tn(&[1.0, 2.0, 3.0], &a, &offsets, 1, 2);
    equal(&product, &[1.0, 2.0, 0.0, 0.0, 2.0 * 3.0 + 3.0 * 5.0, 2.0 * 4.0 + 3.0 * 6.0]);
    let (x, w, dy) = (normal(15, 1), normal(60, 2), normal(12, 3));
    let forward = |x: &[f64], w: &[f64]| dot(&dy, &grouped::gemm_grouped_nt(x, w, &offsets, 4, 5));
    slopes("dx", &x, &grouped::gemm_grouped_nn(&dy, &w, &offsets, 5, 4), |x| forward(x, &w));
    slopes("dw", &w, &grouped::gemm_grouped_tn(&dy, &x, &offsets, 4, 5), |w| forward(&x, w));
}
