//! The clipped policy loss: `loss = sum_n w (-min(r A, clip(r) A) + kl k3 - c_H H)`, `r = exp(lp - old)`,
//! `k3 = exp(ref - lp) - (ref - lp) - 1`; and the other objectives and estimators.

use crate::ops::loss::{Kl, Objective, PolicyLoss};

/// Returns dlogprob `[N]`, dentropy `[N]` and the sums `[6]`; see [`crate::ops::loss::policy_loss`].
pub fn policy_loss(
    logprob: &[f64],
    old: &[f64],
    reference: &[f64],
    advantage: &[f64],
    weight: &[f64],
    entropy: &[f64],
    how: PolicyLoss,
) -> (Vec<f64>, Vec<f64>, [f64; 6]) {
    let (low, high) = (1.0 - how.clip_low as f64, 1.0 + how.clip_high as f64);
    let (kl_weight, bonus) = (how.kl as f64, how.entropy as f64);
    let (mut dlogprob, mut dentropy, mut sums) = (Vec::new(), Vec::new(), [0f64; 6]);
    for i in 0..logprob.len() {
        let (a, w) = (advantage[i], weight[i]);
        let r = (logprob[i] - old[i]).exp();
        // The value and its slope in log r: a minimum takes the slope of what it takes.
        let (mut pg, mut slope) = match how.objective {
            Objective::Clip if r.clamp(low, high) * a < r * a => (-r.clamp(low, high) * a, 0.0),
            Objective::Clip => (-r * a, -r * a),
            Objective::Cispo => (-r.clamp(low, high) * a * logprob[i], -r.clamp(low, high) * a),
        };
        let mut held = match how.objective {
            Objective::Clip => slope == 0.0 && a != 0.0,
            Objective::Cispo => r < low || r > high,
        };
        let ceiling = -(how.dual_clip as f64) * a;
        if how.objective == Objective::Clip && how.dual_clip > 0.0 && a < 0.0 && pg > ceiling {
            (pg, slope, held) = (ceiling, 0.0, true);
        }
        let x = reference[i] - logprob[i];
        let (kl, dkl) = match how.kl_estimator {
            _ if kl_weight == 0.0 => (0.0, 0.0),
            Kl::K1 => (-x, 1.0),
            Kl::K2 => (x * x / 2.0, -x),
            Kl::K3 => (x.exp() - x - 1.0, 1.0 - x.exp()),
        };
        dlogprob.push(w * (slope + kl_weight * dkl));
        dentropy.push(-w * bonus);
        sums[0] += w * (pg + kl_weight * kl - bonus * entropy[i]);
        sums[1] += w * pg;
        sums[2] += kl;
        sums[3] += entropy[i];
        sums[4] += if held { 1.0 } else { 0.0 };
        sums[5] = sums[5].max((r - 1.0).abs());
    }
    (dlogprob, dentropy, sums)
}
