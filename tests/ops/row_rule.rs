//! The row rule of matrix products, the head and sampling: bits depend on the row alone, never on the batch, the
//! chunking, the threads or the vector width.

use crate::support::tensor::{self, HOPPER};
use haggle::device::cpu::{Cpu, math::Isa};
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::{DType, Device, Precision, View, ViewMut};
use haggle::noise::Noise;
use haggle::ops::gemm::gpu::{NN, NT, TN, by_tile};
use haggle::ops::gemm::ladder::gemm_nt_naive;
use haggle::ops::gemm::{Matrix, Store, gemm_nn, gemm_nt, gemm_pack, gemm_tn, panels_len};
use haggle::ops::logprob::{linear_logprob_bwd, linear_logprob_fwd, linear_logprob_workspace};
use haggle::ops::sample::{Rows, Sampling, sample};
use half::bf16;
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

/// The same with factors rounded to bf16: where the CPU multiplies pairs, and where floats are rounded.
fn medium_devices() -> impl Iterator<Item = (String, Device)> {
    [(Isa::Portable, 1), (Isa::Avx2, 2), (Isa::Avx512, 1), (Isa::Avx512, 2)].into_iter().map(|(isa, threads)| {
        let cpu = Cpu::with_isa(threads, isa).with_precision(Precision::Medium);
        (format!("{isa:?} with {threads} threads, medium"), Device::Cpu(Arc::new(cpu)))
    })
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

type Gemm = fn(&Device, View, View, ViewMut, usize, usize, usize, Store) -> haggle::Result<()>;

fn product(dev: &Device, gemm: Gemm, a: &[f32], b: &[f32], c: &[f32], dims: [usize; 3], store: Store) -> Vec<f32> {
    let (a, b, mut c) = (dev.upload(a).unwrap(), dev.upload(b).unwrap(), dev.upload(c).unwrap());
    gemm(dev, a.view(), b.view(), c.view_mut(), dims[0], dims[1], dims[2], store).unwrap();
    assert!(c.guard_intact());
    dev.to_vec(c.view())
}

/// Without panels, and with them, which must not matter.
fn nt(dev: &Device, a: View, b: View, c: ViewMut, m: usize, n: usize, k: usize, store: Store) -> haggle::Result<()> {
    gemm_nt(dev, a, b, c, m, n, k, store)
}

fn nt_panels(
    dev: &Device,
    a: View,
    b: View,
    c: ViewMut,
    m: usize,
    n: usize,
    k: usize,
    store: Store,
) -> haggle::Result<()> {
    let mut panels = dev.upload(&vec![f32::NAN; panels_len(dev, n, k, DType::F32)]).unwrap();
    gemm_pack(dev, b, panels.view_mut(), n, k)?;
    assert!(panels.guard_intact());
    gemm_nt(dev, a, Matrix { rows: b, panels: Some(panels.view()) }, c, m, n, k, store)
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

/// Every product of every shape on these devices is the chain over what `factor` makes of its factors, step `step(i, K)`
/// the i-th.
fn every_product_is_the_chain(
    devices: &[(String, Device)],
    factor: fn(&[f32]) -> Vec<f32>,
    step: fn(usize, usize) -> usize,
) {
    for dims in SHAPES {
        let [m, n, k] = dims;
        let (a, b, c) = (noise(m * k, 1), noise(n * k, 2), noise(m * n, 3));
        let (x, y) = (factor(&a), factor(&b));
        for store in [Store::Set, Store::Add] {
            let at = |p| step(p, k);
            let by_nt = chain(dims, &c, store, |i, p| x[i * k + at(p)], |p, j| y[j * k + at(p)]);
            let by_nn = chain(dims, &c, store, |i, p| x[i * k + at(p)], |p, j| y[at(p) * n + j]);
            let by_tn = chain(dims, &c, store, |i, p| x[at(p) * m + i], |p, j| y[at(p) * n + j]);
            // What Set finds in C must not matter.
            let c = if store == Store::Set { vec![f32::NAN; m * n] } else { c.clone() };
            for (name, dev) in devices {
                let gemms = [
                    ("gemm_nt", nt as Gemm, &by_nt),
                    ("gemm_nt panels", nt_panels, &by_nt),
                    ("gemm_nn", gemm_nn, &by_nn),
                    ("gemm_tn", gemm_tn, &by_tn),
                ];
                for (op, gemm, want) in gemms {
                    let what = format!("{op} {dims:?} {store:?} on {name}");
                    same(&what, &product(dev, gemm, &a, &b, &c, dims, store), want);
                }
            }
        }
    }
}

fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
}

#[test]
fn gemm_is_one_chain_over_k_on_every_device() {
    let all: Vec<_> = devices().into_iter().chain(crate::support::kernel_devices()).collect();
    every_product_is_the_chain(&all, <[f32]>::to_vec, |i, _| i);
}

/// c is f32, and so is the sum: only factors are rounded. Of each pair of steps the odd one comes first.
#[test]
fn gemm_at_medium_precision_is_the_chain_of_rounded_factors_on_every_device() {
    let odd_first = |i, k| if i | 1 < k { i ^ 1 } else { i };
    every_product_is_the_chain(&medium_devices().collect::<Vec<_>>(), rounded, odd_first);
}

/// Where an op before has rounded a factor: as if the product had.
#[test]
fn gemm_at_medium_precision_takes_factors_that_are_bf16_already() {
    let up = |dev: &Device, x: &[f32], narrow: bool| {
        let rounded: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
        if narrow { dev.upload(&rounded).unwrap() } else { dev.upload(x).unwrap() }
    };
    for (name, dev) in medium_devices() {
        for [m, n, k] in SHAPES {
            let (a, b) = (noise(m * k, 1), noise(n * k, 2));
            for (op, gemm) in [("gemm_nt", nt as Gemm), ("gemm_nn", gemm_nn), ("gemm_tn", gemm_tn)] {
                let want = product(&dev, gemm, &a, &b, &vec![0.0; m * n], [m, n, k], Store::Set);
                for narrow in [[true, false], [false, true], [true, true]] {
                    let (a, b) = (up(&dev, &a, narrow[0]), up(&dev, &b, narrow[1]));
                    let mut c = dev.upload(&vec![f32::NAN; m * n]).unwrap();
                    gemm(&dev, a.view(), b.view(), c.view_mut(), m, n, k, Store::Set).unwrap();
                    assert!(c.guard_intact());
                    let what = format!("{op} {:?} {narrow:?} on {name}", [m, n, k]);
                    same(&what, &dev.to_vec::<f32>(c.view()), &want);
                }
            }
        }
    }
}

/// A product of bf16; c in bf16, or in f32.
fn product_bf16(
    dev: &Device,
    gemm: impl Fn(&Device, View, View, ViewMut, usize, usize, usize, Store) -> haggle::Result<()>,
    [a, b, c]: [&[f32]; 3],
    dims: [usize; 3],
    store: Store,
    into: DType,
) -> Vec<f32> {
    let up = |x: &[f32]| dev.upload(&x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>()).unwrap();
    let (a, b, mut c) = (up(a), up(b), if into == DType::F32 { dev.upload(c).unwrap() } else { up(c) });
    gemm(dev, a.view(), b.view(), c.view_mut(), dims[0], dims[1], dims[2], store).unwrap();
    assert!(c.guard_intact());
    match into {
        DType::F32 => dev.to_vec(c.view()),
        _ => dev.to_vec::<bf16>(c.view()).iter().map(|x| x.to_f32()).collect(),
    }
}

/// For 16-byte vectors and not, one tile and several.
const BF16_SHAPES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [3, 7, 0],
    [15, 64, 64],
    [16, 40, 520],
    [17, 33, 65],
    [29, 257, 70],
    [64, 128, 128],
    [136, 72, 200],
    [410, 1420, 24],
];

#[test]
fn gemm_nt_naive_has_the_bits_of_gemm_nt() {
    for (name, dev) in crate::support::kernel_devices() {
        for [m, n, k] in [[1, 1, 1], [3, 7, 0], [17, 33, 65], [64, 128, 128]] {
            let (a, b) = (dev.upload(&noise(m * k, 1)).unwrap(), dev.upload(&noise(n * k, 2)).unwrap());
            let mut c = [(); 2].map(|()| dev.upload(&vec![f32::NAN; m * n]).unwrap());
            gemm_nt(&dev, a.view(), b.view(), c[0].view_mut(), m, n, k, Store::Set).unwrap();
            gemm_nt_naive(crate::support::gpu(&dev), a.view(), b.view(), c[1].view_mut(), [m, n, k]).unwrap();
            let [tiled, naive] = [0, 1].map(|i| dev.to_vec::<f32>(c[i].view()));
            same(&format!("M {m} N {n} K {k} on {name}"), &naive, &tiled);
        }
    }
}

/// The emulator's mma is a tensor core's (kernels/emu/tensor.h), so on it the contract is exact in bf16 too: one chain of its
/// steps over K, 16 products each, rounded once.
#[test]
fn gemm_in_bf16_is_one_chain_of_steps_over_k_on_the_emulator() {
    for dims in BF16_SHAPES {
        let [m, n, k] = dims;
        let (a, b, c) = (rounded(&noise(m * k, 1)), rounded(&noise(n * k, 2)), rounded(&noise(m * n, 3)));
        for store in [Store::Set, Store::Add] {
            let start = |at: usize| if store == Store::Add { c[at] } else { 0.0 };
            let by_nt = tensor::product(HOPPER, dims, start, |i, p| a[i * k + p], |p, j| b[j * k + p]);
            let by_nn = tensor::product(HOPPER, dims, start, |i, p| a[i * k + p], |p, j| b[p * n + j]);
            let by_tn = tensor::product(HOPPER, dims, start, |i, p| a[p * m + i], |p, j| b[p * n + j]);
            let c = if store == Store::Set { vec![f32::NAN; m * n] } else { c.clone() };
            let (name, dev) = &crate::support::kernel_devices()[(store == Store::Set) as usize];
            for (op, gemm, want) in
                [("gemm_nt", nt as Gemm, &by_nt), ("gemm_nn", gemm_nn, &by_nn), ("gemm_tn", gemm_tn, &by_tn)]
            {
                let what = format!("{op} in bf16 {dims:?} {store:?} on {name}");
                let tensors = [&a[..], &b, &c];
                same(&what, &product_bf16(dev, gemm, tensors, dims, store, DType::Bf16), &rounded(want));
                if op != "gemm_nn" {
                    let got = product_bf16(dev, gemm, tensors, dims, store, DType::F32);
                    same(&format!("{what} into f32"), &got, want);
                }
            }
        }
    }
}

/// Whichever tile of the op it gets: one warp's, the largest, Hopper's; in vectors and not, K of less and of more than a ring.
#[test]
fn every_tile_of_a_product_gives_the_same_bits() {
    let emu = Emu::with_seed(2, 1).unwrap().with_hopper(true);
    let (dev, mut tried) = (Device::Gpu(Arc::new(Gpu::Emu(emu))), 0);
    for (dims, hopper) in [([24, 72, 200], true), ([136, 264, 72], true), ([40, 24, 1704], true), ([19, 33, 65], false)]
    {
        let [m, n, k] = dims;
        let (a, b, c) = (noise(m * k, 1), noise(n * k, 2), noise(m * n, 3));
        for (op, into) in
            [(&NT, DType::Bf16), (&NT, DType::F32), (&NN, DType::Bf16), (&TN, DType::Bf16), (&TN, DType::F32)]
        {
            for store in [Store::Set, Store::Add] {
                let run = |tile| {
                    let gemm = |dev: &Device, a: View, b: View, c: ViewMut, m, n, k, store| {
                        by_tile(crate::support::gpu(dev), op, tile, [a, b], c, [m, n, k], store)
                    };
                    product_bf16(&dev, gemm, [&a, &b, &c], dims, store, into)
                };
                let mut tiles = op.tiles(hopper);
                let want = run(tiles.next().unwrap());
                for tile in tiles {
                    same(&format!("{dims:?} {store:?} into {} by {tile:?}", into.name()), &run(tile), &want);
                    tried += 1;
                }
            }
        }
    }
    assert_eq!(tried, 2 * (3 * (2 * 9 + 3 * 4) + (2 * 4 + 3 * 2)));
}

/// Across all tiles of gemm_nt that are no Hopper's: 16 rows of 8 and 32 columns, 64 of 32 and 64, 128 of 128.
#[test]
fn gemm_nt_in_bf16_row_alone_equals_row_in_batch() {
    let (m, n, k) = (1300, 1664, 72);
    let (a, b) = (noise(m * k, 4), noise(n * k, 5));
    let dev = &crate::support::kernel_device();
    let run =
        |a: &[f32], m: usize| product_bf16(dev, nt, [a, &b, &vec![0.0; m * n]], [m, n, k], Store::Set, DType::F32);
    let whole = run(&a, m);
    for (start, rows) in [(0, 1), (1299, 1), (700, 16), (31, 17), (100, 64), (640, 130)] {
        let part = run(&a[start * k..][..rows * k], rows);
        same(&format!("rows {start}.. by {rows}"), &part, &whole[start * n..][..rows * n]);
    }
}

#[test]
fn gemm_nt_row_alone_equals_row_in_any_chunk() {
    let (m, n, k) = (301, 96, 530);
    let (a, b) = (noise(m * k, 4), noise(n * k, 5));
    for (name, dev) in
        [("cpu".to_string(), device(2, Isa::detect()))].into_iter().chain(crate::support::kernel_devices())
    {
        let whole = product(&dev, nt, &a, &b, &vec![0.0; m * n], [m, n, k], Store::Set);
        for chunk in [1, 2, 7, 14, 64, 150] {
            for start in (0..m).step_by(chunk) {
                let rows = chunk.min(m - start);
                let part = &a[start * k..][..rows * k];
                let part = product(&dev, nt, part, &b, &vec![0.0; rows * n], [rows, n, k], Store::Set);
                same(&format!("rows {start}.. by {chunk} on {name}"), &part, &whole[start * n..][..rows * n]);
            }
        }
    }
}

const C: usize = 40;
const V: usize = 301;

fn targets(n: usize) -> Vec<i32> {
    (0..n).map(|i| (i * 37 % V) as i32).collect()
}

/// logprob, lse, entropy of rows.
fn head(dev: &Device, x: &[f32], w: &[f32], target: &[i32], inv_temperature: f32) -> Vec<f32> {
    let n = target.len();
    let (x, w, target) = (dev.upload(x).unwrap(), dev.upload(w).unwrap(), dev.upload(target).unwrap());
    let zeros = |len| dev.zeros(DType::F32, len).unwrap();
    let (mut lp, mut lse, mut h) = (zeros(n), zeros(n), zeros(n));
    let mut work = zeros(linear_logprob_workspace(dev, V, C, DType::F32));
    let (x, w, t, out) = (x.view(), w.view(), target.view(), (lp.view_mut(), lse.view_mut(), h.view_mut()));
    linear_logprob_fwd(dev, x, w, t, out.0, out.1, out.2, work.view_mut(), C, inv_temperature).unwrap();
    assert!(work.guard_intact());
    [lp, lse, h].iter().flat_map(|b| dev.to_vec::<f32>(b.view())).collect()
}

#[test]
fn linear_logprob_fwd_row_alone_equals_row_in_batch_on_every_device() {
    let n = 700;
    let (x, w, target) = (noise(n * C, 10), noise(V * C, 11), targets(n));
    let want = head(&device(1, Isa::Portable), &x, &w, &target, 1.25);
    for (name, dev) in devices() {
        same(&name, &head(&dev, &x, &w, &target, 1.25), &want);
    }
    let dev = device(2, Isa::detect());
    for r in [0, 1, 13, 63, 64, 511, 512, 699] {
        let alone = head(&dev, &x[r * C..][..C], &w, &target[r..=r], 1.25);
        same(&format!("row {r}"), &alone, &[want[r], want[n + r], want[2 * n + r]]);
    }
    let medium: Vec<_> = medium_devices().map(|(name, dev)| (name, head(&dev, &x, &w, &target, 1.25))).collect();
    for (name, got) in &medium {
        same(name, got, &medium[0].1);
    }
}

#[test]
fn linear_logprob_bwd_has_the_same_bits_on_every_device() {
    let n = 700;
    let (x, w, target) = (noise(n * C, 12), noise(V * C, 13), targets(n));
    let (dlp, dh, dw0) = (noise(n, 14), noise(n, 15), noise(V * C, 16));
    let run = |dev: &Device| {
        let fwd = head(dev, &x, &w, &target, 0.8);
        let [x, w, dlp, dh] = [&x, &w, &dlp, &dh].map(|v| dev.upload(v).unwrap());
        let (t, lse, h) =
            (dev.upload(&target).unwrap(), dev.upload(&fwd[n..2 * n]).unwrap(), dev.upload(&fwd[2 * n..]).unwrap());
        let (mut dx, mut dw) = (dev.upload(&vec![f32::NAN; n * C]).unwrap(), dev.upload(&dw0).unwrap());
        let mut work = dev.zeros(DType::F32, linear_logprob_workspace(dev, V, C, DType::F32)).unwrap();
        let (a, b) = ((dlp.view(), dh.view(), x.view(), w.view()), (t.view(), lse.view(), h.view()));
        let (c, d) = ((dx.view_mut(), dw.view_mut()), work.view_mut());
        linear_logprob_bwd(dev, a.0, a.1, a.2, a.3, b.0, b.1, b.2, c.0, c.1, d, C, 0.8).unwrap();
        [dev.to_vec::<f32>(dx.view()), dev.to_vec(dw.view())].concat()
    };
    let want = run(&device(1, Isa::Portable));
    assert!(want.iter().all(|x| x.is_finite()));
    for (name, dev) in devices() {
        same(&name, &run(&dev), &want);
    }
}

/// temperature, top_k, top_p, min_p
type Filters = (f32, i32, f32, f32);

/// Tokens and logprobs of rows, all sampled alike, row r at position `at + r`.
fn draw(dev: &Device, logits: &[f32], vocab: usize, how: Filters, at: u64) -> (Vec<i32>, Vec<f32>) {
    let n = logits.len() / vocab;
    let (t, k) = (dev.upload(&vec![how.0; n]).unwrap(), dev.upload(&vec![how.1; n]).unwrap());
    let (p, m) = (dev.upload(&vec![how.2; n]).unwrap(), dev.upload(&vec![how.3; n]).unwrap());
    let key = dev.upload(&(0..n as u64).flat_map(|_| [9, 4]).collect::<Vec<u64>>()).unwrap();
    let pos = dev.upload(&(0..n as i32).map(|r| at as i32 + r).collect::<Vec<i32>>()).unwrap();
    let how = Sampling { temperature: t.view(), top_k: k.view(), top_p: p.view(), min_p: m.view(), key: key.view() };
    let (mut z, mut token, mut lp) =
        (dev.upload(logits).unwrap(), dev.zeros(DType::I32, n).unwrap(), dev.zeros(DType::F32, n).unwrap());
    let rows = Rows::Stay(pos.view());
    sample(dev, z.view_mut(), how, rows, token.view_mut(), lp.view_mut(), vocab, vocab).unwrap();
    (dev.to_vec(token.view()), dev.to_vec(lp.view()))
}

const FILTERS: [Filters; 7] = [
    (1.0, 0, 1.0, 0.0),
    (0.0, 0, 1.0, 0.0),
    (0.7, 5, 1.0, 0.0),
    (1.5, 0, 0.6, 0.0),
    (1.0, 0, 1.0, 0.2),
    (0.9, 40, 0.9, 0.05),
    (1.0, 0, 0.0, 2.0),
];

#[test]
fn sample_row_alone_equals_row_in_batch_on_every_device() {
    let (n, plain) = (90, device(1, Isa::Portable));
    let logits = noise(n * V, 20);
    for how in FILTERS {
        let want = draw(&plain, &logits, V, how, 0);
        for (name, dev) in devices() {
            let got = draw(&dev, &logits, V, how, 0);
            assert_eq!(got.0, want.0, "{how:?} on {name}");
            same(&format!("{how:?} on {name}"), &got.1, &want.1);
            for r in [0, 1, 17, 89] {
                let alone = draw(&dev, &logits[r * V..][..V], V, how, r as u64);
                assert_eq!((alone.0[0], alone.1[0].to_bits()), (want.0[r], want.1[r].to_bits()), "{how:?} row {r}");
            }
        }
    }
}

#[test]
fn sample_returns_the_bits_of_linear_logprob_fwd() {
    let (n, dev) = (50, device(2, Isa::detect()));
    let (x, w) = (noise(n * C, 21), noise(V * C, 22));
    for temperature in [1.0f32, 0.7, 1.9] {
        let logits = product(&dev, nt, &x, &w, &vec![0.0; n * V], [n, V, C], Store::Set);
        let (token, logprob) = draw(&dev, &logits, V, (temperature, 0, 1.0, 0.0), 0);
        same("logprob", &logprob, &head(&dev, &x, &w, &token, 1.0 / temperature)[..n]);
    }
}

#[test]
fn sample_draws_all_of_what_the_filters_keep_and_nothing_else() {
    // Eight values, each eight times over: ties everywhere.
    let row: Vec<f32> = (0..64).map(|i| ((i * 5) % 8) as f32 * 0.4).collect();
    let mut order: Vec<usize> = (0..64).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
    let total: f64 = row.iter().map(|z| (*z as f64).exp()).sum();
    let kept = |how: Filters| -> Vec<usize> {
        let mut before = 0.0;
        let mut kept = Vec::new();
        for (rank, &i) in order.iter().enumerate() {
            let p = (row[i] as f64).exp() / total;
            let likeliest = (row[order[0]] as f64).exp() / total;
            let in_k = how.1 == 0 || rank < how.1 as usize;
            if in_k && (how.2 >= 1.0 || before < how.2 as f64) && p >= how.3 as f64 * likeliest {
                kept.push(i);
            }
            before += p;
        }
        kept.sort_unstable();
        kept
    };
    let dev = device(2, Isa::detect());
    for how in [(1.0, 0, 1.0, 0.0), (1.0, 1, 1.0, 0.0), (1.0, 11, 1.0, 0.0), (1.0, 0, 0.5, 0.0), (1.0, 0, 1.0, 0.5)] {
        for how in [how, (1.0, how.1, 0.83, how.3), (1.0, 29, how.2, 0.1)] {
            let drawn = draw(&dev, &row.repeat(6000), 64, how, 0).0;
            let mut drawn: Vec<usize> = drawn.into_iter().map(|t| t as usize).collect();
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn, kept(how), "{how:?}");
        }
    }
}

#[test]
fn sample_of_broken_logits_gives_a_token_and_says_nan() {
    let dev = device(2, Isa::detect());
    let mut one_nan = noise(V, 30);
    one_nan[77] = f32::NAN;
    for logits in [one_nan, vec![f32::NAN; V], vec![f32::NEG_INFINITY; V], vec![f32::INFINITY; V]] {
        for how in FILTERS {
            let (token, logprob) = draw(&dev, &logits, V, how, 3);
            assert!((0..V as i32).contains(&token[0]), "{how:?}: {token:?}");
            assert!(logprob[0].is_nan(), "{how:?}: {logprob:?}");
        }
    }
}

/// A frozen model's matrices: held in bf16, in panels of bf16 where tiles widen them.
#[test]
fn a_matrix_held_in_bf16_gives_the_bits_of_its_floats_with_panels_and_without() {
    for [m, n, k] in [[1, 1, 1], [1, 33, 7], [3, 64, 513], [14, 65, 512], [40, 31, 1025], [300, 96, 130]] {
        let (a, c) = (noise(m * k, 1), noise(m * n, 3));
        let narrow: Vec<bf16> = noise(n * k, 2).into_iter().map(bf16::from_f32).collect();
        let floats: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
        for store in [Store::Set, Store::Add] {
            let want = product(&device(1, Isa::Portable), nt, &a, &floats, &c, [m, n, k], store);
            for (name, dev) in devices() {
                let (rows, a) = (dev.upload(&narrow).unwrap(), dev.upload(&a).unwrap());
                let len = panels_len(&dev, n, k, DType::Bf16);
                let mut panels = dev.upload(&vec![f32::NAN; len]).unwrap();
                gemm_pack(&dev, rows.view(), panels.view_mut(), n, k).unwrap();
                assert!(panels.guard_intact());
                for (how, panels) in [("rows", None), ("panels", Some(panels.view()))] {
                    let mut c = dev.upload(&c).unwrap();
                    let b = Matrix { rows: rows.view(), panels };
                    gemm_nt(&dev, a.view(), b, c.view_mut(), m, n, k, store).unwrap();
                    assert!(c.guard_intact());
                    same(&format!("{name} {how} {m} {n} {k} {store:?}"), &dev.to_vec::<f32>(c.view()), &want);
                }
                if name.starts_with("Avx512") && Isa::detect() == Isa::Avx512 {
                    assert!(2 * len == panels_len(&dev, n, k, DType::F32), "half the bytes are read");
                }
            }
        }
    }
}
