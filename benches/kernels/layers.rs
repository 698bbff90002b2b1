//! The other ops of a layer, the embedding and the optimizer.

use crate::measure::{Bench, Work};
use haggle::device::DType;
use haggle::ops::attn::{CHUNK, Heads, Paged, attn_bwd, attn_decode, attn_fwd, pages_len};
use haggle::ops::embed::{embed_bwd, embed_fwd};
use haggle::ops::norm::{rmsnorm_bwd, rmsnorm_fwd};
use haggle::ops::optim::{AdamW, GRAD_NORM_PARTS, adamw_step, grad_norm};
use haggle::ops::rope::{rope_fwd, table};
use haggle::ops::swiglu::{swiglu_bwd, swiglu_fwd};

const C: usize = 128;
const F: usize = 384;
const HEADS: Heads = Heads { q: 4, kv: 2, dim: 32, scale: 0.17677669 };
const OK: &str = "shapes are right";

/// Everything that is neither a product nor the head.
pub fn layers(bench: &mut Bench) {
    for n in [64, 4096] {
        rmsnorm(bench, n);
        swiglu(bench, n);
        rope(bench, n);
    }
    embed(bench, 4096);
    for t in [256, 512] {
        attn(bench, 8, t);
    }
    for t in [128, 512] {
        decode(bench, 64, t);
    }
    adamw(bench, 1 << 20);
}

fn rmsnorm(bench: &mut Bench, n: usize) {
    let (x, w, dy, mut y) = (bench.noise(n * C), bench.noise(C), bench.noise(n * C), bench.zeros(n * C));
    let (mut rstd, mut dx, mut dw) = (bench.zeros(n), bench.zeros(n * C), bench.zeros(C));
    let (shape, bytes) = (format!("N {n} C {C}"), (4 * n * C) as f64);
    bench.op("rmsnorm_fwd", &shape, Work::Bytes(2.0 * bytes), |dev| {
        rmsnorm_fwd(dev, x.view(), w.view(), y.view_mut(), rstd.view_mut(), 1e-6).expect(OK);
    });
    bench.op("rmsnorm_bwd", &shape, Work::Bytes(4.0 * bytes), |dev| {
        let (dx, dw) = (dx.view_mut(), dw.view_mut());
        rmsnorm_bwd(dev, dy.view(), x.view(), w.view(), rstd.view(), dx, dw).expect(OK);
    });
}

fn swiglu(bench: &mut Bench, n: usize) {
    let [gate, up, dh] = [0; 3].map(|_| bench.noise(n * F));
    let [mut h, mut dgate, mut dup] = [0; 3].map(|_| bench.zeros(n * F));
    let (shape, bytes) = (format!("N {n} F {F}"), (4 * n * F) as f64);
    bench.op("swiglu_fwd", &shape, Work::Bytes(3.0 * bytes), |dev| {
        swiglu_fwd(dev, gate.view(), up.view(), h.view_mut()).expect(OK);
    });
    bench.op("swiglu_bwd", &shape, Work::Bytes(5.0 * bytes), |dev| {
        swiglu_bwd(dev, dh.view(), gate.view(), up.view(), dgate.view_mut(), dup.view_mut()).expect(OK);
    });
}

fn rope(bench: &mut Bench, n: usize) {
    let mut x = bench.noise(n * C);
    let positions = bench.dev.upload(&(0..n as i32).collect::<Vec<i32>>());
    let angles = bench.dev.upload(&table(n, HEADS.dim, 1e4));
    bench.op("rope_fwd", &format!("N {n} H 4 D 32"), Work::Bytes((8 * n * C) as f64), |dev| {
        rope_fwd(dev, x.view_mut(), positions.view(), angles.view(), HEADS.q, HEADS.dim).expect(OK);
    });
}

fn embed(bench: &mut Bench, n: usize) {
    let ids = bench.dev.upload(&(0..n).map(|i| (i * 37 % 2048) as i32).collect::<Vec<i32>>());
    let (w, mut x, mut dw) = (bench.noise(2048 * C), bench.zeros(n * C), bench.zeros(2048 * C));
    let (shape, bytes) = (format!("N {n} C {C}"), (4 * n * C) as f64);
    bench.op("embed_fwd", &shape, Work::Bytes(2.0 * bytes), |dev| {
        embed_fwd(dev, ids.view(), w.view(), x.view_mut(), C).expect(OK);
    });
    bench.op("embed_bwd", &shape, Work::Bytes(3.0 * bytes), |dev| {
        embed_bwd(dev, ids.view(), x.view(), dw.view_mut(), C).expect(OK);
    });
}

fn attn(bench: &mut Bench, b: usize, t: usize) {
    let (n, width) = (b * t, HEADS.kv * HEADS.dim);
    let cu = bench.dev.upload(&(0..=b).map(|i| (i * t) as i32).collect::<Vec<i32>>());
    let (q, k, v, d_o) = (bench.noise(n * C), bench.noise(n * width), bench.noise(n * width), bench.noise(n * C));
    let (mut o, mut lse, mut dq) = (bench.zeros(n * C), bench.zeros(n * HEADS.q), bench.zeros(n * C));
    let (mut dk, mut dv) = (bench.zeros(n * width), bench.zeros(n * width));
    // Two products of 2 D flops for each query and key that sees it.
    let (shape, flops) = (format!("B {b} T {t} H 4 D 32"), (4 * b * C) as f64 * (t * (t + 1) / 2) as f64);
    bench.op("attn_fwd", &shape, Work::Flops(flops), |dev| {
        let (o, lse) = (o.view_mut(), lse.view_mut());
        attn_fwd(dev, q.view(), k.view(), v.view(), cu.view(), o, lse, HEADS).expect(OK);
    });
    bench.op("attn_bwd", &shape, Work::Flops(2.5 * flops), |dev| {
        let (q, k, v, o, lse) = (q.view(), k.view(), v.view(), o.view(), lse.view());
        let (dq, dk, dv) = (dq.view_mut(), dk.view_mut(), dv.view_mut());
        attn_bwd(dev, d_o.view(), q, k, v, o, lse, cu.view(), dq, dk, dv, HEADS).expect(OK);
    });
}

fn decode(bench: &mut Bench, b: usize, t: usize) {
    let max_pages = t.div_ceil(CHUNK);
    let len = pages_len(b * max_pages, HEADS);
    let (k, v, q, mut o) = (bench.noise(len), bench.noise(len), bench.noise(b * C), bench.zeros(b * C));
    let (seq, pos) = (bench.dev.upload(&(0..b as i32).collect::<Vec<i32>>()), bench.dev.upload(&vec![t as i32 - 1; b]));
    let table = bench.dev.upload(&(0..(b * max_pages) as i32).collect::<Vec<i32>>());
    bench.op("attn_decode", &format!("B {b} T {t} H 4 D 32"), Work::Bytes((8 * len) as f64), |dev| {
        let at = Paged { seq: seq.view(), pos: pos.view(), table: table.view(), max_pages };
        attn_decode(dev, q.view(), k.view(), v.view(), at, o.view_mut(), HEADS).expect(OK);
    });
}

fn adamw(bench: &mut Bench, n: usize) {
    let (g, mut w, mut m, mut v) = (bench.noise(n), bench.noise(n), bench.zeros(n), bench.zeros(n));
    let (mut norm, mut parts) = (bench.zeros(1), bench.dev.zeros(DType::U64, GRAD_NORM_PARTS));
    let how = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01, grad_scale: 1.0, step: 9 };
    bench.op("grad_norm", &format!("N {n}"), Work::Bytes((4 * n) as f64), |dev| {
        grad_norm(dev, g.view(), norm.view_mut(), parts.view_mut()).expect(OK);
    });
    bench.op("adamw_step", &format!("N {n}"), Work::Bytes((28 * n) as f64), |dev| {
        adamw_step(dev, g.view(), w.view_mut(), m.view_mut(), v.view_mut(), None, how).expect(OK);
    });
}
