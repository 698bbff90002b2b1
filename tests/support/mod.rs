//! What the tests of the ops share: noise, poisoned outputs, devices, and comparison with the oracle.
//! Each test file uses its part.
#![allow(dead_code)]

pub mod attn;
pub mod browser;
pub mod cli;
pub mod engine;
pub mod small_model;
pub mod tensor;

use haggle::device::cpu::{Cpu, math::Isa};
use haggle::device::gpu::{Arg, Gpu, Launch, emu::Emu};
use haggle::device::{Buffer, Device, Precision};
use haggle::noise::Noise;
use haggle::ops::attn::Heads;
use haggle::ops::sample::oracle::Row;
use haggle::ops::sample::{Rows, Sampling, sample};
use half::bf16;
use std::io::Write;
use std::sync::{Arc, OnceLock};

/// A CPU device of `threads` threads.
pub fn cpu(threads: usize) -> Device {
    Device::Cpu(Arc::new(Cpu::new(threads)))
}

/// Every device the same bits must come from, by name; the plainest first.
pub fn devices() -> Vec<(String, Device)> {
    let mut all = Vec::new();
    for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512] {
        for threads in [1, 2] {
            all.push((format!("{isa:?}, {threads} threads"), Device::Cpu(Arc::new(Cpu::with_isa(threads, isa)))));
        }
    }
    all
}

/// Every CPU device that rounds factors to bf16, by name; the plainest first.
pub fn medium_devices() -> Vec<(String, Device)> {
    let device = |(isa, threads)| {
        let cpu = Cpu::with_isa(threads, isa).with_precision(Precision::Medium);
        (format!("{isa:?}, {threads} threads, medium"), Device::Cpu(Arc::new(cpu)))
    };
    [(Isa::Portable, 1), (Isa::Avx2, 2), (Isa::Avx512, 1), (Isa::Avx512, 2)].map(device).to_vec()
}

/// The emulator, in its natural thread order and in shuffled ones.
pub fn emus() -> Vec<(String, Device)> {
    let emu = |threads, seed| Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(threads, seed).unwrap())));
    [(1, 0), (2, 0), (2, 1), (1, 2)].map(|(t, seed)| (format!("emu, {t} threads, seed {seed}"), emu(t, seed))).to_vec()
}

/// Every device that runs our kernels: the emulator's, and the first GPU where there is one.
pub fn kernel_devices() -> Vec<(String, Device)> {
    emus().into_iter().chain(cuda().map(|dev| ("cuda:0".to_string(), dev))).collect()
}

/// Devices with Hopper's kernels, clusters of blocks among them: emulated ones, the threads of the second in a random order, and the
/// first GPU where it has them.
pub fn hoppers() -> Vec<(String, Device)> {
    let emu = |seed| Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, seed).unwrap().with_hopper(true))));
    let emus = [0, 5].map(|seed| (format!("emu, Hopper's kernels, seed {seed}"), emu(seed)));
    let real = cuda().filter(|dev| gpu(dev).hopper()).map(|dev| ("cuda:0, Hopper's kernels".into(), dev));
    emus.into_iter().chain(real).collect()
}

/// True where the emulator's launches are counted; else it says that a test is skipped.
pub fn counts(emu: &Emu) -> bool {
    if !emu.sees_accesses() {
        eprintln!("SKIPPED: a build without HAGGLE_EMU_COUNT=1 counts nothing");
    }
    emu.sees_accesses()
}

/// A device that runs our kernels, for tests that need one: the first GPU where there is one, else the emulator.
pub fn kernel_device() -> Device {
    cuda().unwrap_or_else(|| Device::open("emu", 2).unwrap())
}

/// The first GPU, opened once for all tests of a file. Without one it says so, past the test's captured output; with
/// `HAGGLE_REQUIRE_GPU=1` that is a failure.
pub fn cuda() -> Option<Device> {
    static CUDA: OnceLock<Option<Device>> = OnceLock::new();
    let open = || match Device::open("cuda:0", 0) {
        Ok(dev) => Some(dev),
        Err(e) => {
            let required = std::env::var("HAGGLE_REQUIRE_GPU").is_ok_and(|v| v == "1");
            assert!(!required, "HAGGLE_REQUIRE_GPU=1, and there is none: {e}");
            let _ = writeln!(std::io::stderr(), "SKIPPED on cuda:0: {e}");
            None
        }
    };
    CUDA.get_or_init(open).clone()
}

/// What runs the kernels of a device that has some.
pub fn gpu(dev: &Device) -> &Gpu {
    let Device::Gpu(gpu) = dev else { panic!("not a device of kernels") };
    gpu
}

/// Whether a device's tensor cores add as the emulator's do: then it has its bits in bf16 too. Other cards are held to
/// themselves alone.
pub fn adds_as_the_emulator(dev: &Device) -> bool {
    match gpu(dev) {
        Gpu::Cuda(cuda) => cuda.capability() == [9, 0],
        Gpu::Emu(_) => true,
    }
}

/// Heads whose scores are scaled as a model's are.
pub fn heads(q: usize, kv: usize, dim: usize) -> Heads {
    Heads { q, kv, dim, scale: 1.0 / (dim as f32).sqrt() }
}

/// A probe or a planted kernel, in one dimension.
pub fn launch(
    dev: &Device,
    kernel: &'static str,
    grid: u32,
    threads: u32,
    shared_bytes: u32,
    args: &mut [Arg],
) -> haggle::Result<()> {
    let (grid, block) = ([grid, 1, 1], [threads, 1, 1]);
    gpu(dev).launch(&Launch { kernel, op: "probe", grid, block, shared_bytes, shape: &"N=1" }, args)
}

/// `len` normal numbers of stream `stream`.
pub fn normal(len: usize, stream: u64) -> Vec<f32> {
    let noise = Noise::new(11, stream);
    (0..len as u64).map(|i| noise.normal(i) as f32).collect()
}

/// `len` indices in `0..n`.
pub fn indices(len: usize, n: usize, stream: u64) -> Vec<i32> {
    let noise = Noise::new(12, stream);
    (0..len as u64).map(|i| noise.below(i, n) as i32).collect()
}

/// Rounded to bf16.
pub fn round(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|x| bf16::from_f32(*x)).collect()
}

/// Widened from bf16.
pub fn floats(x: &[bf16]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

/// The same numbers in f64.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| *x as f64).collect()
}

/// A buffer of `len` NaN: what an op writes with `=` must not need its output's past.
pub fn poisoned(dev: &Device, len: usize) -> Buffer {
    dev.upload(&vec![f32::NAN; len]).unwrap()
}

/// The contents of an output, after a look at its guard.
#[track_caller]
pub fn take(dev: &Device, buffer: &Buffer) -> Vec<f32> {
    assert!(buffer.guard_intact(), "the op wrote behind its output");
    dev.to_vec(buffer.view())
}

/// Row-major coordinate of element `at` of a tensor of `dims`.
pub fn coordinate(mut at: usize, dims: &[usize]) -> Vec<usize> {
    let mut out = vec![0; dims.len()];
    for (to, dim) in out.iter_mut().zip(dims).rev() {
        (*to, at) = (at % dim, at / dim);
    }
    out
}

/// Holds `got` to the oracle. An error counts relative to the largest number of the tensor; `floor` is the largest
/// one measured when the test was written, twice of it fails.
#[track_caller]
pub fn near(stem: &str, dims: &[usize], want: &[f64], got: &[f32], floor: f64) {
    assert_eq!(want.len(), got.len(), "{stem} {dims:?}: number of elements");
    let scale = want.iter().fold(0f64, |m, x| m.max(x.abs())).max(1e-30);
    let error = |i: usize| (got[i] as f64 - want[i]).abs() / scale;
    let worst = (0..got.len()).map(error).fold(0.0, |m: f64, e| if e > m || e.is_nan() { e } else { m });
    println!("{stem} {dims:?}: worst {worst:.2e} of floor {floor:.2e}");
    if let Some(i) = (0..got.len()).find(|i| error(*i) > 2.0 * floor || error(*i).is_nan()) {
        let at = coordinate(i, dims);
        panic!(
            "{stem} {dims:?}: at {at:?} got {}, want {} (error {:.2e}, floor {floor:.2e})",
            got[i],
            want[i],
            error(i)
        );
    }
}

/// The same bits everywhere.
#[track_caller]
pub fn same(stem: &str, what: &str, dims: &[usize], want: &[f32], got: &[f32]) {
    assert_eq!(want.len(), got.len(), "{stem} {dims:?}, {what}: number of elements");
    if let Some(i) = (0..got.len()).find(|i| got[*i].to_bits() != want[*i].to_bits()) {
        let at = coordinate(i, dims);
        panic!("{stem} {dims:?}, {what}: at {at:?} got {:?}, want {:?}", got[i], want[i]);
    }
}

/// The op's refusal names the op and its rule.
#[track_caller]
pub fn refused<T>(result: haggle::Result<T>, op: &str, rule: &str) {
    match result {
        Err(haggle::Error::Shape { op: o, rule: r, .. }) if o == op && r.contains(rule) => {}
        Err(other) => panic!("{op}: refused otherwise: {other}"),
        Ok(_) => panic!("{op}: took a wrong {rule}"),
    }
}

/// Tokens and logprobs of `n` draws from one row of logits.
pub fn draw(dev: &Device, logits: &[f32], n: usize, how: Row) -> (Vec<usize>, Vec<f32>) {
    let mut z = dev.upload(&logits.repeat(n)).unwrap();
    let key: Vec<u64> = (0..n as u64).flat_map(|i| [77, i / 100]).collect();
    let pos = dev.upload(&(0..n as i32).map(|i| i % 100).collect::<Vec<i32>>()).unwrap();
    let (mut token, mut logprob) = (dev.upload(&vec![-1i32; n]).unwrap(), poisoned(dev, n));
    let [temperature, top_p, min_p] =
        [how.temperature, how.top_p, how.min_p].map(|x| dev.upload(&vec![x as f32; n]).unwrap());
    let (top_k, key) = (dev.upload(&vec![how.top_k as i32; n]).unwrap(), dev.upload(&key).unwrap());
    let sampling = Sampling {
        temperature: temperature.view(),
        top_k: top_k.view(),
        top_p: top_p.view(),
        min_p: min_p.view(),
        key: key.view(),
    };
    let (rows, v) = (Rows::Stay(pos.view()), logits.len());
    sample(dev, z.view_mut(), sampling, rows, token.view_mut(), logprob.view_mut(), v, v).unwrap();
    assert!(z.guard_intact() && token.guard_intact());
    let token: Vec<i32> = dev.to_vec(token.view());
    (token.iter().map(|t| *t as usize).collect(), take(dev, &logprob))
}

/// The whole softmax at temperature 1.
pub const ALL: Row = Row { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
