//! Credit, the loss, the optimizer, noise: f32 whatever the model is.

use super::Tester;
use crate::device::DType;
use crate::error::Result;
use crate::noise::Noise;
use crate::ops::credit::{GroupAdvantage, group_advantage, shapley_max, shapley_table};
use crate::ops::loss::{POLICY_SUMS, PolicyLoss, policy_loss};
use crate::ops::noise::noise_bits;
use crate::ops::optim::{AdamW, GRAD_NORM_PARTS, adamw_step, grad_norm};

pub(super) fn all(t: &mut Tester) -> Result<()> {
    advantages(t, 33, 8)?;
    for (n, k) in [(20, 16), (3, 50)] {
        let (utility, mut phi) = (t.input(n * k)?, t.out(n * k)?);
        shapley_max(t.dev, utility.buffer.view(), phi.view_mut(), k)?;
        let want: Vec<f64> = utility.values.chunks(k).flat_map(crate::ops::credit::oracle::shapley_max).collect();
        t.holds("shapley_max", "phi", &format!("n {n} K {k}"), &want, &phi);
    }
    let (n, k) = (3, 6);
    let (values, mut phi) = (t.input(n << k)?, t.out(n * k)?);
    shapley_table(t.dev, values.buffer.view(), phi.view_mut(), k)?;
    let want: Vec<f64> =
        values.values.chunks(1 << k).flat_map(|v| crate::ops::credit::oracle::shapley_table(v, k)).collect();
    t.holds("shapley_table", "phi", &format!("n {n} K {k}"), &want, &phi);
    loss(t, 301)?;
    optimizer(t, 5000)?;
    let (mut bits, noise) = (t.dev.zeros(DType::U64, 300)?, Noise::new(5, 6));
    noise_bits(t.dev, bits.view_mut(), noise, 7)?;
    let right = t.dev.download::<u64>(bits.view())?.iter().zip(7..).all(|(b, i)| *b == noise.bits(i));
    t.exactly("noise_bits", "bits", "N 300", right);
    Ok(())
}

fn advantages(t: &mut Tester, n: usize, g: usize) -> Result<()> {
    for divide_by_std in [true, false] {
        let (rewards, mut advantage) = (t.input(n * g)?, t.out(n * g)?);
        let mut constant = t.dev.zeros(DType::I32, n)?;
        let how = GroupAdvantage { divide_by_std };
        group_advantage(t.dev, rewards.buffer.view(), advantage.view_mut(), constant.view_mut(), g, how)?;
        let want = crate::ops::credit::oracle::group_advantage(&rewards.values, g, how);
        t.holds("group_advantage", "advantage", &format!("n {n} G {g}"), &want, &advantage);
    }
    Ok(())
}

fn loss(t: &mut Tester, n: usize) -> Result<()> {
    let mut real = || t.input(n);
    let [lp, old, reference, a, w, h] = [real()?, real()?, real()?, real()?, real()?, real()?];
    let (mut dlp, mut dh, mut sums) = (t.out(n)?, t.out(n)?, t.out(POLICY_SUMS.len())?);
    let how = PolicyLoss { kl: 0.1, entropy: 0.01, ..PolicyLoss::default() };
    policy_loss(
        t.dev,
        lp.buffer.view(),
        old.buffer.view(),
        reference.buffer.view(),
        a.buffer.view(),
        w.buffer.view(),
        h.buffer.view(),
        dlp.view_mut(),
        dh.view_mut(),
        sums.view_mut(),
        how,
    )?;
    let want = crate::ops::loss::oracle::policy_loss(
        &lp.values,
        &old.values,
        &reference.values,
        &a.values,
        &w.values,
        &h.values,
        how,
    );
    let shape = format!("N {n}");
    t.holds("policy_loss", "dlogprob", &shape, &want.0, &dlp);
    t.holds("policy_loss", "dentropy", &shape, &want.1, &dh);
    t.holds("policy_loss", "sums", &shape, &want.2, &sums);
    Ok(())
}

fn optimizer(t: &mut Tester, n: usize) -> Result<()> {
    let (g, w, m) = (t.input(n)?, t.input(n)?, t.input(n)?);
    let squares: Vec<f32> = t.input(n)?.values.iter().map(|x| (x * x) as f32).collect();
    let v = t.tensor(&squares, DType::F32)?;
    let (mut norm, mut parts) = (t.out(1)?, t.dev.zeros(DType::U64, GRAD_NORM_PARTS)?);
    let shape = format!("N {n}");
    grad_norm(t.dev, g.buffer.view(), norm.view_mut(), parts.view_mut())?;
    t.holds("grad_norm", "squares", &shape, &[crate::ops::optim::oracle::grad_norm(&g.values)], &norm);
    let how = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, grad_scale: 0.5, step: 3 };
    let (mut new_w, mut new_m, mut new_v) = (w.buffer, m.buffer, v.buffer);
    let (w_out, m_out, v_out) = (new_w.view_mut(), new_m.view_mut(), new_v.view_mut());
    adamw_step(t.dev, g.buffer.view(), w_out, m_out, v_out, None, how)?;
    let want = crate::ops::optim::oracle::adamw_step(&g.values, &w.values, &m.values, &v.values, how);
    t.holds("adamw_step", "w", &shape, &want.0, &new_w);
    t.holds("adamw_step", "m", &shape, &want.1, &new_m);
    t.holds("adamw_step", "v", &shape, &want.2, &new_v);
    Ok(())
}
