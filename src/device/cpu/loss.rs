//! Policy losses on the CPU.

use crate::ops::loss::PolicyLoss;

/// See [`crate::ops::loss::policy_loss`].
pub fn policy_loss(
    logprob: &[f32],
    old: &[f32],
    reference: &[f32],
    advantage: &[f32],
    weight: &[f32],
    entropy: &[f32],
    dlogprob: &mut [f32],
    dentropy: &mut [f32],
    sums: &mut [f32],
    how: PolicyLoss,
) {
    let mut s = [0f64; 6];
    for i in 0..logprob.len() {
        let (a, w) = (advantage[i], weight[i]);
        let r = (logprob[i] - old[i]).exp();
        let clipped = r.clamp(1.0 - how.clip_low, 1.0 + how.clip_high);
        let stops = clipped * a < r * a;
        let pg = -(r * a).min(clipped * a);
        let mut d = if stops { 0.0 } else { -r * a };
        let mut kl = 0.0;
        if how.kl > 0.0 {
            let x = reference[i] - logprob[i];
            kl = x.exp() - x - 1.0;
            d += how.kl * (1.0 - x.exp());
        }
        dlogprob[i] = w * d;
        dentropy[i] = -w * how.entropy;
        let (w, pg, kl, h) = (w as f64, pg as f64, kl as f64, entropy[i] as f64);
        s[0] += w * (pg + how.kl as f64 * kl - how.entropy as f64 * h);
        s[1] += w * pg;
        s[2] += w * kl;
        s[3] += w * h;
        s[4] += if stops { w } else { 0.0 };
        s[5] = s[5].max((r as f64 - 1.0).abs());
    }
    for (to, from) in sums.iter_mut().zip(s) {
        *to = from as f32;
    }
}
