//! Cases of the policy's loss, f32 whatever the model is: every option at least once, ratios outside the clip on both sides.

use super::{Kl, Objective, POLICY_SUMS, PolicyLoss, cost, oracle, policy_loss};
use crate::device::DType;
use crate::error::Result;
use crate::ops::case::{Floor, Stage};

/// The clip alone.
pub const CLIP: PolicyLoss = PolicyLoss {
    clip_low: 0.2,
    clip_high: 0.28,
    kl: 0.0,
    entropy: 0.0,
    objective: Objective::Clip,
    dual_clip: 0.0,
    kl_estimator: Kl::K3,
};

/// Every option at least once.
pub fn rules() -> [PolicyLoss; 6] {
    let penal = PolicyLoss { kl: 0.03, entropy: 0.01, ..CLIP };
    [
        penal,
        CLIP,
        PolicyLoss { dual_clip: 1.25, kl_estimator: Kl::K1, ..penal },
        PolicyLoss { kl_estimator: Kl::K2, ..penal },
        PolicyLoss { objective: Objective::Cispo, ..CLIP },
        PolicyLoss { objective: Objective::Cispo, clip_high: 5.0, ..penal },
    ]
}

const FLOOR_DLOGPROB: Floor = [1.2e-7, 0.0];
const FLOOR_DENTROPY: Floor = [5.4e-8, 0.0];
const FLOOR_SUMS: Floor = [1.3e-7, 0.0];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    if s.dtype != DType::F32 && !s.times() {
        return Ok(());
    }
    for n in s.shapes(&[301], &[1, 7, 1000], |_| vec![512, 8192]) {
        let rules = rules();
        for how in &rules[..if s.times() { 1 } else { rules.len() }] {
            loss(s, n, *how)?;
        }
    }
    Ok(())
}

fn loss(s: &mut Stage, n: usize, how: PolicyLoss) -> Result<()> {
    if !s.wants(&["policy_loss"]) {
        return Ok(());
    }
    let mut normal = || -> Result<Vec<f32>> {
        let x = s.input_f32(n)?;
        s.dev.download(x.buffer.view())
    };
    let (lp, off, further, a, w, h) = (normal()?, normal()?, normal()?, normal()?, normal()?, normal()?);
    let negative: Vec<f32> = lp.iter().map(|x| -x.abs()).collect();
    let plus = |by: f32, x: &[f32]| negative.iter().zip(x).map(|(a, b)| a + by * b).collect::<Vec<f32>>();
    let positive = |x: &[f32]| x.iter().map(|x| x.abs()).collect::<Vec<f32>>();
    let inputs = [negative.clone(), plus(0.3, &off), plus(0.5, &further), a, positive(&w), positive(&h)];
    let tensor = |x: &Vec<f32>| s.tensor(x, DType::F32);
    let [lp, old, reference, a, w, h] = &inputs;
    let (lp, old, reference, a, w, h) =
        (tensor(lp)?, tensor(old)?, tensor(reference)?, tensor(a)?, tensor(w)?, tensor(h)?);
    let (mut dlp, mut dh, mut sums) = (s.out_f32(n)?, s.out_f32(n)?, s.out_f32(POLICY_SUMS.len())?);
    s.call("policy_loss", "", cost::policy_loss(n), |dev| {
        let (lp, old, reference) = (lp.buffer.view(), old.buffer.view(), reference.buffer.view());
        let (a, w, h) = (a.buffer.view(), w.buffer.view(), h.buffer.view());
        policy_loss(dev, lp, old, reference, a, w, h, dlp.view_mut(), dh.view_mut(), sums.view_mut(), how)
    })?;
    let want = || oracle::policy_loss(&lp.values, &old.values, &reference.values, &a.values, &w.values, &h.values, how);
    s.holds("dlogprob", &dlp, FLOOR_DLOGPROB, || want().0);
    s.holds("dentropy", &dh, FLOOR_DENTROPY, || want().1);
    s.holds("sums", &sums, FLOOR_SUMS, || want().2.to_vec());
    Ok(())
}
