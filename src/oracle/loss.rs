//! The clipped policy loss: `loss = sum_n w (-min(r A, clip(r) A) + kl k3 - c_H H)`, `r = exp(lp - old)`,
//! `k3 = exp(ref - lp) - (ref - lp) - 1`.

use crate::ops::loss::PolicyLoss;

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
        let (free, bounded) = (r * a, r.clamp(low, high) * a);
        let x = reference[i] - logprob[i];
        let k3 = if kl_weight > 0.0 { x.exp() - x - 1.0 } else { 0.0 };
        let dk3 = if kl_weight > 0.0 { 1.0 - x.exp() } else { 0.0 };
        dlogprob.push(w * (if bounded < free { 0.0 } else { -r * a } + kl_weight * dk3));
        dentropy.push(-w * bonus);
        sums[0] += w * (-free.min(bounded) + kl_weight * k3 - bonus * entropy[i]);
        sums[1] += w * -free.min(bounded);
        sums[2] += w * k3;
        sums[3] += w * entropy[i];
        sums[4] += if bounded < free { w } else { 0.0 };
        sums[5] = sums[5].max((r - 1.0).abs());
    }
    (dlogprob, dentropy, sums)
}
