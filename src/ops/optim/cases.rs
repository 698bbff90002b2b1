//! Cases of the optimizer, f32 whatever the model is: one weight, odd numbers, many; the first step and a late one.

use super::{AdamW, GRAD_NORM_PARTS, adamw_step, cost, grad_norm, oracle};
use crate::device::{Buffer, DType};
use crate::error::Result;
use crate::ops::case::{Floor, Stage};
use half::bf16;

const FLOOR_NORM: Floor = [5.5e-8, 0.0];
const FLOOR_ADAMW: Floor = [1.4e-7, 0.0];

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    if s.dtype != DType::F32 && !s.times() {
        return Ok(());
    }
    for n in s.shapes(&[5000], &[1, 15, 1023, 1025, 70_001], |_| vec![1 << 16, 1 << 20]) {
        if s.wants(&["grad_norm"]) {
            let (g, mut norm, mut parts) = (s.input_f32(n)?, s.out_f32(1)?, s.dev.zeros(DType::U64, GRAD_NORM_PARTS)?);
            s.call("grad_norm", "", cost::grad_norm(n), |dev| {
                grad_norm(dev, g.buffer.view(), norm.view_mut(), parts.view_mut())
            })?;
            s.holds("squares", &norm, FLOOR_NORM, || vec![oracle::grad_norm(&g.values)]);
        }
        for step in if s.times() { &[9][..] } else { &[1, 2, 1000] } {
            adamw(s, n, *step)?;
        }
    }
    for n in s.shapes(&[5000], &[1, 1025, 70_001], |_| vec![1 << 20]) {
        for step in if s.times() { &[9][..] } else { &[1, 1000] } {
            narrow(s, n, *step)?;
        }
    }
    Ok(())
}

fn adamw(s: &mut Stage, n: usize, step: u64) -> Result<()> {
    if !s.wants(&["adamw_step"]) {
        return Ok(());
    }
    let (g, mut w, mut m, v) = (s.input_f32(n)?, s.input_f32(n)?, s.input_f32(n)?, s.input_f32(n)?);
    let squares: Vec<f32> = s.dev.download::<f32>(v.buffer.view())?.iter().map(|x| x * x).collect();
    let (mut v, mut copy) = (s.tensor(&squares, DType::F32)?, s.out_as(n, DType::Bf16)?);
    let with_copy = !s.times();
    let how =
        AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, grad_scale: 0.5, step, element: 0 };
    s.call("adamw_step", "", cost::adamw_step(n, DType::F32, with_copy), |dev| {
        let (w, m, v) = (w.buffer.view_mut(), m.buffer.view_mut(), v.buffer.view_mut());
        adamw_step(dev, g.buffer.view(), w, m, v, with_copy.then(|| copy.view_mut()), how)
    })?;
    let want = || oracle::adamw_step(&g.values, &w.values, &m.values, &v.values, how);
    s.holds("w", &w.buffer, FLOOR_ADAMW, || want().0);
    s.holds("m", &m.buffer, FLOOR_ADAMW, || want().1);
    s.holds("v", &v.buffer, FLOOR_ADAMW, || want().2);
    s.exactly("the copy is w rounded", |dev| {
        let w = dev.download::<f32>(w.buffer.view())?;
        Ok(copy.guard_intact()
            && dev.download::<bf16>(copy.view())?.iter().zip(w).all(|(c, w)| *c == bf16::from_f32(w)))
    })
}

/// The same with moments in bf16: the weights move as by what was stored before, and what is stored is f32's, rounded.
fn narrow(s: &mut Stage, n: usize, step: u64) -> Result<()> {
    if !s.wants(&["adamw_step"]) {
        return Ok(());
    }
    let (g, mut w) = (s.input_f32(n)?, s.input_f32(n)?);
    let (m, v) = (s.input_as(n, DType::Bf16)?, s.input_as(n, DType::Bf16)?);
    let of = |s: &Stage, x: &Buffer, f: fn(f32) -> f32| -> Result<Vec<f32>> {
        Ok(s.dev.download::<bf16>(x.view())?.iter().map(|x| f(x.to_f32())).collect())
    };
    let (m_before, v_before) = (of(s, &m.buffer, |x| x)?, of(s, &v.buffer, |x| x.abs())?);
    let (mut m, mut v) = (m.buffer, s.tensor(&v_before, DType::Bf16)?.buffer);
    let before = s.dev.download::<f32>(w.buffer.view())?;
    let how =
        AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, grad_scale: 0.5, step, element: 77 };
    s.call("adamw_step", "moments bf16", cost::adamw_step(n, DType::Bf16, false), |dev| {
        adamw_step(dev, g.buffer.view(), w.buffer.view_mut(), m.view_mut(), v.view_mut(), None, how)
    })?;
    let wide = |x: &[f32]| x.iter().map(|x| *x as f64).collect::<Vec<_>>();
    s.holds("w", &w.buffer, FLOOR_ADAMW, || {
        oracle::adamw_step(&g.values, &w.values, &wide(&m_before), &wide(&v_before), how).0
    });
    s.exactly("the moments are f32's, rounded by their noise", |dev| {
        let (mut w, mut m32, mut v32) = (dev.upload(&before)?, dev.upload(&m_before)?, dev.upload(&v_before)?);
        adamw_step(dev, g.buffer.view(), w.view_mut(), m32.view_mut(), v32.view_mut(), None, how)?;
        let same = |which: usize, wide: &Buffer, got: &Buffer| -> Result<bool> {
            let (wide, got) = (dev.download::<f32>(wide.view())?, dev.download::<bf16>(got.view())?);
            let pairs = wide.iter().zip(&got).enumerate();
            Ok(pairs.into_iter().all(|(i, (x, got))| oracle::rounded(*x, which, how, i).to_bits() == got.to_bits()))
        };
        Ok(m.guard_intact() && v.guard_intact() && same(0, &m32, &m)? && same(1, &v32, &v)?)
    })
}
