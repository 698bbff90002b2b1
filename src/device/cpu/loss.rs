//! Policy losses on the CPU.

use super::math;
use crate::ops::loss::PolicyLoss;

/// See [`crate::ops::loss::policy_loss`]. One thread, rows in order, sums in f64; NaN comes through.
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
        let r = math::exp(logprob[i] - old[i]);
        let (low, high) = (1.0 - how.clip_low, 1.0 + how.clip_high);
        // The clipped side is the smaller one: it counts, and its gradient is 0. NaN is neither: it counts as it is.
        let stops = if a > 0.0 { r > high } else { a < 0.0 && r < low };
        let bounded = if a > 0.0 { high } else { low };
        let pg = if stops { -bounded * a } else { -r * a };
        let mut d = if stops { 0.0 } else { -r * a };
        let mut kl = 0.0;
        if how.kl > 0.0 {
            let x = reference[i] - logprob[i];
            kl = math::exp(x) - x - 1.0;
            d += how.kl * (1.0 - math::exp(x));
        }
        dlogprob[i] = w * d;
        dentropy[i] = -w * how.entropy;
        let (w, pg, kl, h) = (w as f64, pg as f64, kl as f64, entropy[i] as f64);
        s[0] += w * (pg + how.kl as f64 * kl - how.entropy as f64 * h);
        s[1] += w * pg;
        s[2] += w * kl;
        s[3] += w * h;
        s[4] += if stops { w } else { 0.0 };
        let deviation = (r as f64 - 1.0).abs();
        // Not f64::max, which drops NaN.
        s[5] = if deviation > s[5] || deviation.is_nan() { deviation } else { s[5] };
    }
    for (to, from) in sums.iter_mut().zip(s) {
        *to = from as f32;
    }
}
