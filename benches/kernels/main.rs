//! Every kernel at the shapes of the tiny model, beside what this machine can do at most.
//!
//! `cargo bench --bench kernels -- [STEM]... [--threads N] [--json FILE]`: median and spread of each op whose name
//! contains a STEM, its GFLOP/s or GB/s, and the share of the multiply-add or copy peak measured just before.
//! `--json` appends one object a row.

#![allow(clippy::unwrap_used)]

mod credit;
mod head;
mod layers;
mod measure;

use haggle::device::{Device, View, ViewMut};
use haggle::ops::gemm::{Store, gemm_nn, gemm_nt, gemm_tn};
use measure::{Bench, Work};

/// (out, in) of the tiny model's linear layers, the head last, and one square.
const LAYERS: [(usize, usize); 6] = [(128, 128), (64, 128), (384, 128), (128, 384), (2048, 128), (256, 256)];

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut only, mut threads, mut json) = (Vec::new(), 0, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => {}
            "--threads" => threads = args.next().and_then(|n| n.parse().ok()).expect("--threads N"),
            "--json" => json = Some(args.next().expect("--json FILE")),
            _ => only.push(arg),
        }
    }
    let json = json.map(|path| {
        std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    });
    let mut bench = Bench::open(threads, only, json);
    gemm(&mut bench);
    head::head(&mut bench);
    credit::credit(&mut bench);
    layers::layers(&mut bench);
}

type Gemm = fn(&Device, View, View, ViewMut, usize, usize, usize, Store) -> haggle::Result<()>;

/// Decode at 1 to 128 rows, then a training batch: forward, gradient of the input, gradient of the weight.
fn gemm(bench: &mut Bench) {
    for m in [1, 4, 16, 64, 128] {
        for (n, k) in LAYERS {
            product(bench, "gemm_nt", |dev, a, b, c, m, n, k, store| gemm_nt(dev, a, b, c, m, n, k, store), m, n, k);
        }
    }
    for (n, k) in LAYERS {
        product(bench, "gemm_nt", |dev, a, b, c, m, n, k, store| gemm_nt(dev, a, b, c, m, n, k, store), 4096, n, k);
        product(bench, "gemm_nn", gemm_nn, 4096, k, n);
        product(bench, "gemm_tn", gemm_tn, n, k, 4096);
    }
}

fn product(bench: &mut Bench, op: &str, gemm: Gemm, m: usize, n: usize, k: usize) {
    let (a, b, mut c) = (bench.noise(m * k), bench.noise(n * k), bench.zeros(m * n));
    bench.op(op, &format!("M {m} N {n} K {k}"), Work::Flops(2.0 * (m * n * k) as f64), |dev| {
        gemm(dev, a.view(), b.view(), c.view_mut(), m, n, k, Store::Set).expect("shapes are right");
    });
}
