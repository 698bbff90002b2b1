//! Policy losses on the CPU.

use crate::device::cpu::math;
use crate::ops::loss::{Kl, Objective, PolicyLoss};

/// Lanes of a sum: as many as threads of the kernel.
const LANES: usize = 256;

/// See [`crate::ops::loss::policy_loss`]. One thread, sums in f64: token i belongs to lane i % 256, lanes are added as a
/// tree of halves. NaN comes through.
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
    let mut lanes = [[0f64; 6]; LANES];
    for i in 0..logprob.len() {
        let s = &mut lanes[i % LANES];
        let (a, w) = (advantage[i], weight[i]);
        let r = math::exp(logprob[i] - old[i]);
        let (pg, mut d, stops) = match how.objective {
            Objective::Clip => clip(r, a, how),
            Objective::Cispo => {
                let bounded = r.clamp(1.0 - how.clip_low, 1.0 + how.clip_high);
                (-bounded * a * logprob[i], -bounded * a, bounded != r)
            }
        };
        let mut kl = 0.0;
        if how.kl > 0.0 {
            let (estimate, slope) = penalty(reference[i] - logprob[i], how.kl_estimator);
            kl = estimate;
            d += how.kl * slope;
        }
        dlogprob[i] = w * d;
        dentropy[i] = -w * how.entropy;
        let (w, pg, kl, h) = (w as f64, pg as f64, kl as f64, entropy[i] as f64);
        s[0] += w * (pg + how.kl as f64 * kl - how.entropy as f64 * h);
        s[1] += w * pg;
        s[2] += kl;
        s[3] += h;
        s[4] += if stops { 1.0 } else { 0.0 };
        s[5] = larger(s[5], (r as f64 - 1.0).abs());
    }
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            let other = lanes[l + half];
            for c in 0..5 {
                lanes[l][c] += other[c];
            }
            lanes[l][5] = larger(lanes[l][5], other[5]);
        }
        half /= 2;
    }
    for (to, from) in sums.iter_mut().zip(lanes[0]) {
        *to = from as f32;
    }
}

/// The larger one; NaN wins, which f64::max drops.
fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

/// Loss, slope in the logprob, and whether the clip holds it.
fn clip(r: f32, a: f32, how: PolicyLoss) -> (f32, f32, bool) {
    let (low, high) = (1.0 - how.clip_low, 1.0 + how.clip_high);
    if a < 0.0 && how.dual_clip > 0.0 && r > how.dual_clip {
        return (-how.dual_clip * a, 0.0, true);
    }
    // The clipped side is the smaller one: it counts, and its gradient is 0. NaN is neither: it counts as it is.
    let stops = if a > 0.0 { r > high } else { a < 0.0 && r < low };
    let bounded = if a > 0.0 { high } else { low };
    if stops { (-bounded * a, 0.0, true) } else { (-r * a, -r * a, false) }
}

/// The KL estimate at `x = reference - logprob`, and its slope in the logprob.
fn penalty(x: f32, estimator: Kl) -> (f32, f32) {
    match estimator {
        Kl::K1 => (-x, 1.0),
        Kl::K2 => (0.5 * x * x, -x),
        Kl::K3 => (math::exp(x) - x - 1.0, 1.0 - math::exp(x)),
    }
}
