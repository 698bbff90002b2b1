//! The head and sampling.

use crate::measure::{Bench, Work};
use haggle::device::DType;
use haggle::ops::logprob::{linear_logprob_bwd, linear_logprob_fwd, linear_logprob_workspace};
use haggle::ops::sample::{Sampling, sample};

const C: usize = 128;
const V: usize = 2048;

/// linear_logprob_fwd, linear_logprob_bwd, sample.
pub fn head(bench: &mut Bench) {
    for n in [64, 1024, 4096] {
        linear_logprob(bench, n);
    }
    for n in [1, 16, 64] {
        for (name, top_k, top_p) in [("all", 0, 1.0), ("top_k 50", 50, 1.0), ("top_p 0.9", 0, 0.9)] {
            sampling(bench, n, name, top_k, top_p);
        }
    }
}

fn linear_logprob(bench: &mut Bench, n: usize) {
    let (x, w) = (bench.noise(n * C), bench.noise(V * C));
    let target = bench.dev.upload(&(0..n).map(|i| (i * 37 % V) as i32).collect::<Vec<i32>>());
    let (dlp, dh) = (bench.noise(n), bench.noise(n));
    let (mut lp, mut lse, mut h) = (bench.zeros(n), bench.zeros(n), bench.zeros(n));
    let (mut dx, mut dw) = (bench.zeros(n * C), bench.zeros(V * C));
    let mut work = bench.zeros(linear_logprob_workspace(&bench.dev, V));
    let (shape, flops) = (format!("N {n} C {C} V {V}"), 2.0 * (n * C * V) as f64);
    bench.op("linear_logprob_fwd", &shape, Work::Flops(flops), |dev| {
        let (x, w, t) = (x.view(), w.view(), target.view());
        let (lp, lse, h) = (lp.view_mut(), lse.view_mut(), h.view_mut());
        linear_logprob_fwd(dev, x, w, t, lp, lse, h, work.view_mut(), C, 1.0).expect("shapes are right");
    });
    bench.op("linear_logprob_bwd", &shape, Work::Flops(3.0 * flops), |dev| {
        let (x, w, t, lse, h) = (x.view(), w.view(), target.view(), lse.view(), h.view());
        let (dx, dw, work) = (dx.view_mut(), dw.view_mut(), work.view_mut());
        linear_logprob_bwd(dev, dlp.view(), dh.view(), x, w, t, lse, h, dx, dw, work, C, 1.0)
            .expect("shapes are right");
    });
}

fn sampling(bench: &mut Bench, n: usize, name: &str, top_k: i32, top_p: f32) {
    let (mut z, dev) = (bench.noise(n * V), bench.dev.clone());
    let (t, k) = (dev.upload(&vec![1f32; n]), dev.upload(&vec![top_k; n]));
    let (p, m) = (dev.upload(&vec![top_p; n]), dev.upload(&vec![0f32; n]));
    let key = dev.upload(&(0..3 * n as u64).collect::<Vec<u64>>());
    let (mut token, mut lp) = (dev.zeros(DType::I32, n), bench.zeros(n));
    bench.op("sample", &format!("N {n} V {V} {name}"), Work::Bytes((8 * n * V) as f64), |dev| {
        let how =
            Sampling { temperature: t.view(), top_k: k.view(), top_p: p.view(), min_p: m.view(), key: key.view() };
        sample(dev, z.view_mut(), how, token.view_mut(), lp.view_mut(), V).expect("shapes are right");
    });
}
