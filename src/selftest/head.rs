//! The head and sampling.

use super::Tester;
use crate::device::DType;
use crate::error::Result;
use crate::ops::logprob::{linear_logprob_bwd, linear_logprob_fwd, linear_logprob_workspace};
use crate::ops::sample::{Sampling, decode_next, sample};

pub(super) fn all(t: &mut Tester) -> Result<()> {
    // A vocabulary of one span of sums, and of two.
    logprob(t, 19, 40, 300)?;
    logprob(t, 5, 40, 2300)?;
    if t.dtype == DType::F32 {
        sampled(t, 12, 700)?;
        moved_on(t, 130)?;
    }
    Ok(())
}

fn logprob(t: &mut Tester, n: usize, c: usize, v: usize) -> Result<()> {
    let (x, w) = (t.input(n * c)?, t.input(v * c)?);
    let (dlp, dh) = (t.input_f32(n)?, t.input_f32(n)?);
    let targets: Vec<i32> = (0..n).map(|i| (i * 97 % v) as i32).collect();
    let (target, inv) = (t.dev.upload(&targets)?, 0.3);
    let [mut lp, mut lse, mut h] = [t.out_f32(n)?, t.out_f32(n)?, t.out_f32(n)?];
    let mut work = t.out_f32(linear_logprob_workspace(t.dev, v, c, t.dtype))?;
    let (xv, wv, tv) = (x.buffer.view(), w.buffer.view(), target.view());
    let (lp_out, lse_out, h_out) = (lp.view_mut(), lse.view_mut(), h.view_mut());
    linear_logprob_fwd(t.dev, xv, wv, tv, lp_out, lse_out, h_out, work.view_mut(), c, inv)?;
    let want = crate::ops::logprob::oracle::linear_logprob_fwd(&x.values, &w.values, &targets, c, inv as f64);
    let shape = format!("N {n} C {c} V {v}");
    t.holds("linear_logprob_fwd", "logprob", &shape, &want.0, &lp);
    t.holds("linear_logprob_fwd", "lse", &shape, &want.1, &lse);
    t.holds("linear_logprob_fwd", "entropy", &shape, &want.2, &h);
    let (mut dx, mut dw) = (t.out(n * c)?, t.dev.zeros(DType::F32, v * c)?);
    let (dlp_view, dh_view, lse, h) = (dlp.buffer.view(), dh.buffer.view(), lse.view(), h.view());
    let (dx_out, dw_out, work) = (dx.view_mut(), dw.view_mut(), work.view_mut());
    linear_logprob_bwd(t.dev, dlp_view, dh_view, xv, wv, tv, lse, h, dx_out, dw_out, work, c, inv)?;
    let (want_dx, want_dw) = crate::ops::logprob::oracle::linear_logprob_bwd(
        &dlp.values,
        &dh.values,
        &x.values,
        &w.values,
        &targets,
        c,
        inv as f64,
    );
    t.holds("linear_logprob_bwd", "dx", &shape, &want_dx, &dx);
    // The gradient of the logits is like x.
    let limit = if t.dtype == DType::Bf16 { super::BF16 } else { super::F32 };
    t.holds_within("linear_logprob_bwd", "dw", &shape, &want_dw, &dw, limit);
    Ok(())
}

/// Rows of a decode step, every seventh of them padding.
fn moved_on(t: &mut Tester, n: usize) -> Result<()> {
    let (n_seqs, i) = (200, 0..n as i32);
    let seq = |row: i32| if row % 7 == 6 { n_seqs } else { row };
    let part = |f: &dyn Fn(i32) -> i32| i.clone().map(f).collect::<Vec<i32>>();
    let (mut ids, mut positions, seqs, token) = (part(&|r| r + 5), part(&|r| 3 * r), part(&seq), part(&|r| 1000 - r));
    let mut key: Vec<u64> = (0..3 * n as u64).collect();
    let pack = |ids: &[i32], positions: &[i32]| [ids, positions, &seqs, &part(&|r| r), positions, &seqs].concat();
    let (mut rows, mut keys) = (t.dev.upload(&pack(&ids, &positions))?, t.dev.upload(&key)?);
    decode_next(t.dev, t.dev.upload(&token)?.view(), rows.view_mut(), keys.view_mut(), n_seqs as usize)?;
    let live: Vec<bool> = seqs.iter().map(|seq| *seq < n_seqs).collect();
    let mut noise: Vec<u64> = key.iter().skip(2).step_by(3).copied().collect();
    crate::ops::sample::oracle::decode_next(&mut ids, &mut positions, &mut noise, &live, &token);
    key.iter_mut().skip(2).step_by(3).zip(noise).for_each(|(key, noise)| *key = noise);
    let same =
        t.dev.download::<i32>(rows.view())? == pack(&ids, &positions) && t.dev.download::<u64>(keys.view())? == key;
    t.exactly("decode_next", "rows and keys", &format!("N {n}"), same);
    Ok(())
}

/// Rows of every kind: the token is one that the filters keep, greedy takes the likeliest, the logprob is the oracle's.
fn sampled(t: &mut Tester, n: usize, v: usize) -> Result<()> {
    let logits = t.input(n * v)?;
    let kinds = [(0.0, 0, 1.0, 0.0), (1.0, 0, 1.0, 0.0), (0.7, 20, 1.0, 0.0), (1.3, 0, 0.8, 0.0), (1.0, 0, 1.0, 0.1)];
    let of = |i: usize| kinds[i % kinds.len()];
    let reals = |of: &dyn Fn(usize) -> f32| t.dev.upload(&(0..n).map(of).collect::<Vec<f32>>());
    let (temperature, top_p, min_p) = (reals(&|i| of(i).0)?, reals(&|i| of(i).2)?, reals(&|i| of(i).3)?);
    let top_k = t.dev.upload(&(0..n).map(|i| of(i).1).collect::<Vec<i32>>())?;
    let key = t.dev.upload(&(0..3 * n as u64).collect::<Vec<u64>>())?;
    let how = Sampling {
        temperature: temperature.view(),
        top_k: top_k.view(),
        top_p: top_p.view(),
        min_p: min_p.view(),
        key: key.view(),
    };
    let (mut token, mut lp, mut z) = (t.dev.zeros(DType::I32, n)?, t.out_f32(n)?, logits.buffer);
    sample(t.dev, z.view_mut(), how, token.view_mut(), lp.view_mut(), v)?;
    let tokens = t.dev.download::<i32>(token.view())?;
    let (mut want, mut kept) = (vec![0.0; n], true);
    for (i, token) in tokens.iter().enumerate() {
        let (temperature, top_k, top_p, min_p) = of(i);
        let row = crate::ops::sample::oracle::Row {
            temperature: temperature as f64,
            top_k: top_k as usize,
            top_p: top_p as f64,
            min_p: min_p as f64,
        };
        let (p, log_p) = crate::ops::sample::oracle::sample(&logits.values[i * v..(i + 1) * v], row);
        let token = usize::try_from(*token).unwrap_or(usize::MAX);
        kept &= p.get(token).is_some_and(|p| *p > 0.0);
        want[i] = log_p.get(token).copied().unwrap_or(f64::NAN);
    }
    let shape = format!("N {n} V {v}");
    t.exactly("sample", "tokens that the filters keep", &shape, kept);
    t.holds("sample", "logprob", &shape, &want, &lp);
    Ok(())
}
