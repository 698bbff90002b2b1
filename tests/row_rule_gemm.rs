//! The row rule of matrix products, the head and sampling: bits depend on the row alone, never on the batch, the
//! chunking, the threads or the vector width.

use haggle::device::cpu::{Cpu, math::Isa};
use haggle::device::{Device, View};
use haggle::noise::Noise;
use haggle::ops::gemm::{Store, gemm_nn, gemm_nt, gemm_tn};
use std::sync::Arc;

fn device(threads: usize, isa: Isa) -> Device {
    Device::Cpu(Arc::new(Cpu::with_isa(threads, isa)))
}

/// Every device the same bits must come from; the plain one first.
fn devices() -> Vec<(String, Device)> {
    let mut all = Vec::new();
    for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512] {
        for threads in [1, 2, 3] {
            all.push((format!("{isa:?} with {threads} threads"), device(threads, isa)));
        }
    }
    all
}

fn noise(len: usize, stream: u64) -> Vec<f32> {
    let noise = Noise::new(5, stream);
    (0..len as u64).map(|i| noise.normal(i) as f32).collect()
}

#[track_caller]
fn same(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for i in 0..got.len() {
        assert_eq!(got[i].to_bits(), want[i].to_bits(), "{what}: element {i}, got {}, want {}", got[i], want[i]);
    }
}

type Gemm = fn(&Device, View, View, haggle::device::ViewMut, usize, usize, usize, Store) -> haggle::Result<()>;

fn product(dev: &Device, gemm: Gemm, a: &[f32], b: &[f32], c: &[f32], dims: [usize; 3], store: Store) -> Vec<f32> {
    let (a, b, mut c) = (dev.upload(a), dev.upload(b), dev.upload(c));
    gemm(dev, a.view(), b.view(), c.view_mut(), dims[0], dims[1], dims[2], store).unwrap();
    assert!(c.guard_intact());
    dev.to_vec(c.view())
}

/// The contract itself: one chain of fused multiply-adds, K ascending.
fn chain(
    [m, n, k]: [usize; 3],
    c: &[f32],
    store: Store,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let start = |at: usize| if store == Store::Add { c[at] } else { 0.0 };
    let element = |at: usize| (0..k).fold(start(at), |s, p| a(at / n, p).mul_add(b(p, at % n), s));
    (0..m * n).map(element).collect()
}

const SHAPES: [[usize; 3]; 14] = [
    [1, 1, 1],
    [1, 32, 16],
    [1, 129, 128],
    [2, 33, 17],
    [3, 7, 0],
    [5, 16, 31],
    [13, 31, 512],
    [14, 32, 513],
    [15, 64, 64],
    [29, 257, 65],
    [64, 128, 128],
    [67, 70, 1100],
    [600, 40, 33],
    [530, 300, 20],
];

#[test]
fn gemm_is_one_chain_over_k_on_every_device() {
    for dims in SHAPES {
        let [m, n, k] = dims;
        let (a, b, c) = (noise(m * k, 1), noise(n * k, 2), noise(m * n, 3));
        for store in [Store::Set, Store::Add] {
            let nt = chain(dims, &c, store, |i, p| a[i * k + p], |p, j| b[j * k + p]);
            let nn = chain(dims, &c, store, |i, p| a[i * k + p], |p, j| b[p * n + j]);
            let tn = chain(dims, &c, store, |i, p| a[p * m + i], |p, j| b[p * n + j]);
            // What Set finds in C must not matter.
            let c = if store == Store::Set { vec![f32::NAN; m * n] } else { c.clone() };
            for (name, dev) in devices() {
                for (op, gemm, want) in
                    [("gemm_nt", gemm_nt as Gemm, &nt), ("gemm_nn", gemm_nn, &nn), ("gemm_tn", gemm_tn, &tn)]
                {
                    let what = format!("{op} {dims:?} {store:?} on {name}");
                    same(&what, &product(&dev, gemm, &a, &b, &c, dims, store), want);
                }
            }
        }
    }
}

#[test]
fn gemm_nt_row_alone_equals_row_in_any_chunk() {
    let (m, n, k) = (301, 96, 530);
    let (a, b) = (noise(m * k, 4), noise(n * k, 5));
    let dev = device(2, Isa::detect());
    let whole = product(&dev, gemm_nt, &a, &b, &vec![0.0; m * n], [m, n, k], Store::Set);
    for chunk in [1, 2, 7, 14, 64, 150] {
        for start in (0..m).step_by(chunk) {
            let rows = chunk.min(m - start);
            let part = &a[start * k..][..rows * k];
            let part = product(&dev, gemm_nt, part, &b, &vec![0.0; rows * n], [rows, n, k], Store::Set);
            same(&format!("rows {start}.. by {chunk}"), &part, &whole[start * n..][..rows * n]);
        }
    }
}
