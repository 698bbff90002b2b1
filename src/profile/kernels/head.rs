//! The head and sampling.

use super::Bench;
use crate::device::DType;
use crate::error::Result;
use crate::noise::Noise;
use crate::ops::cost;
use crate::ops::logprob::{linear_logprob_bwd, linear_logprob_fwd, linear_logprob_workspace};
use crate::ops::noise::noise_bits;
use crate::ops::sample::{Sampling, decode_next, sample};

/// linear_logprob_fwd, linear_logprob_bwd, sample.
pub fn head(bench: &mut Bench) -> Result<()> {
    if bench.wants("linear_logprob_fwd") || bench.wants("linear_logprob_bwd") {
        let (c, v) = (bench.model.hidden_size, bench.model.vocab_size);
        for n in bench.sizes([64, 1024, 4096]) {
            linear_logprob(bench, n, c, v)?;
        }
        // A large model's head, whatever the shape asked for.
        if bench.dev.name().starts_with("cuda") {
            linear_logprob(bench, 4096, 2048, 131_072)?;
        }
    }
    for n in bench.sizes([1, 16, 64]) {
        for (name, top_k, top_p) in [("all", 0, 1.0), ("top_k 50", 50, 1.0), ("top_p 0.9", 0, 0.9)] {
            if bench.wants("sample") {
                sampling(bench, n, name, top_k, top_p)?;
            }
        }
        next(bench, n)?;
    }
    Ok(())
}

/// What runs between a token and the next, and noise alone.
fn next(bench: &mut Bench, n: usize) -> Result<()> {
    let (token, mut rows) = (bench.dev.zeros(DType::I32, n)?, bench.dev.zeros(DType::I32, 6 * n)?);
    let (mut key, mut bits) = (bench.dev.zeros(DType::U64, 3 * n)?, bench.dev.zeros(DType::U64, 1024 * n)?);
    bench.op("decode_next", "", cost::decode_next(n), |dev| {
        decode_next(dev, token.view(), rows.view_mut(), key.view_mut(), 1)
    })?;
    bench.op("noise_bits", "", cost::noise_bits(1024 * n), |dev| noise_bits(dev, bits.view_mut(), Noise::new(1, 2), 0))
}

fn linear_logprob(bench: &mut Bench, n: usize, c: usize, v: usize) -> Result<()> {
    let dtype = bench.dtype;
    let (x, w) = (bench.noise(n * c)?, bench.noise(v * c)?);
    let target = bench.dev.upload(&(0..n).map(|i| (i * 37 % v) as i32).collect::<Vec<i32>>())?;
    let (dlp, dh) = (bench.noise_f32(n)?, bench.noise_f32(n)?);
    let [mut lp, mut lse, mut h] = [bench.zeros_f32(n)?, bench.zeros_f32(n)?, bench.zeros_f32(n)?];
    let (mut dx, mut dw) = (bench.zeros(n * c)?, bench.zeros_f32(v * c)?);
    let mut work = bench.zeros_f32(linear_logprob_workspace(&bench.dev, v, c, dtype))?;
    bench.op("linear_logprob_fwd", "", cost::linear_logprob_fwd(n, c, v, dtype), |dev| {
        let (x, w, t) = (x.view(), w.view(), target.view());
        let (lp, lse, h) = (lp.view_mut(), lse.view_mut(), h.view_mut());
        linear_logprob_fwd(dev, x, w, t, lp, lse, h, work.view_mut(), c, 1.0)
    })?;
    bench.op("linear_logprob_bwd", "", cost::linear_logprob_bwd(n, c, v, dtype), |dev| {
        let (x, w, t, lse, h) = (x.view(), w.view(), target.view(), lse.view(), h.view());
        let (dx, dw, work) = (dx.view_mut(), dw.view_mut(), work.view_mut());
        linear_logprob_bwd(dev, dlp.view(), dh.view(), x, w, t, lse, h, dx, dw, work, c, 1.0)
    })
}

fn sampling(bench: &mut Bench, n: usize, name: &str, top_k: i32, top_p: f32) -> Result<()> {
    let (v, dev) = (bench.model.vocab_size, bench.dev.clone());
    let mut z = bench.noise_f32(n * v)?;
    let (t, k) = (dev.upload(&vec![1f32; n])?, dev.upload(&vec![top_k; n])?);
    let (p, m) = (dev.upload(&vec![top_p; n])?, dev.upload(&vec![0f32; n])?);
    let key = dev.upload(&(0..3 * n as u64).collect::<Vec<u64>>())?;
    let (mut token, mut lp) = (dev.zeros(DType::I32, n)?, bench.zeros_f32(n)?);
    bench.op("sample", name, cost::sample(n, v), |dev| {
        let how =
            Sampling { temperature: t.view(), top_k: k.view(), top_p: p.view(), min_p: m.view(), key: key.view() };
        sample(dev, z.view_mut(), how, token.view_mut(), lp.view_mut(), v)
    })
}
