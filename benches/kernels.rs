//! Every kernel at the shapes of the tiny model, beside what this machine can do at most.
//!
//! `cargo bench --bench kernels -- [STEM] [--threads N] [--json FILE]`: median and spread of each op whose name
//! contains STEM, its GFLOP/s or GB/s, and the share of the measured peak. `--json` appends one object a row.

use haggle::device::cpu::{Cpu, math::Isa, pool::Shared};
use haggle::device::{Buffer, DType, Device, View, ViewMut};
use haggle::noise::Noise;
use haggle::ops::attn::{CHUNK, Heads, Paged, attn_bwd, attn_decode, attn_fwd, pages_len};
use haggle::ops::gemm::{Store, gemm_nn, gemm_nt, gemm_tn};
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an op is bound by, and how much of it one call uses.
#[derive(Clone, Copy)]
enum Work {
    /// Floating-point operations.
    Flops(f64),
    /// Bytes read and written.
    Bytes(f64),
}

/// Seconds of one call.
struct Time {
    median: f64,
    /// 10th and 90th percentile.
    p10: f64,
    p90: f64,
}

struct Bench {
    dev: Device,
    cpu: Arc<Cpu>,
    only: String,
    json: Option<std::fs::File>,
    peak_flops: f64,
    peak_bytes: f64,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut only, mut threads, mut json) = (String::new(), 0, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => {}
            "--threads" => threads = args.next().and_then(|n| n.parse().ok()).expect("--threads N"),
            "--json" => json = Some(args.next().expect("--json FILE")),
            stem => only = stem.to_string(),
        }
    }
    let json = json.map(|path| {
        std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    });
    let cpu = Arc::new(Cpu::new(threads));
    let mut bench =
        Bench { dev: Device::Cpu(cpu.clone()), cpu, only, json, peak_flops: f64::INFINITY, peak_bytes: f64::INFINITY };
    println!("{:?}, {} threads", bench.cpu.isa, bench.cpu.pool.threads());
    println!("{:<22} {:<26} {:>10} {:>17} {:>14} {:>5}", "op", "shape", "median us", "p10..p90", "rate", "peak");
    bench.peaks();
    bench.gemm();
    bench.attn();
    bench.attn_decode();
}

/// Times `call`: samples of at least 200 us each, for about 0.3 s.
fn time(mut call: impl FnMut()) -> Time {
    let start = Instant::now();
    call();
    let once = start.elapsed().as_secs_f64().max(1e-9);
    let calls = (2e-4 / once).ceil().max(1.0) as usize;
    let mut samples = Vec::new();
    let begin = Instant::now();
    while samples.len() < 9 || begin.elapsed() < Duration::from_millis(300) {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        samples.push(start.elapsed().as_secs_f64() / calls as f64);
    }
    samples.sort_by(f64::total_cmp);
    let at = |q: f64| samples[((samples.len() - 1) as f64 * q) as usize];
    Time { median: at(0.5), p10: at(0.1), p90: at(0.9) }
}

fn noise(dev: &Device, len: usize) -> Buffer {
    let noise = Noise::new(1, len as u64);
    dev.upload(&(0..len as u64).map(|i| noise.uniform(i) - 0.5).collect::<Vec<f32>>())
}

/// Twelve chains of multiply-adds of 16 lanes: the most a core can do. Returns its flops.
fn fma_peak(isa: Isa, rounds: usize) -> f64 {
    match isa {
        // SAFETY: the device has found AVX-512.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { fma_peak_avx512(rounds) },
        _ => isa.run(
            #[inline(always)]
            || {
                let (x, y, mut acc) = (black_box(0.999f32), black_box(0.001f32), black_box([1f32; 96]));
                for _ in 0..rounds {
                    acc.iter_mut().for_each(|a| *a = x.mul_add(*a, y));
                }
                black_box(acc);
            },
        ),
    }
    let lanes = if isa == Isa::Avx512 { 192 } else { 96 };
    (lanes * 2 * rounds) as f64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn fma_peak_avx512(rounds: usize) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
    let mut acc = [_mm512_set1_ps(1.0); 12];
    for _ in 0..rounds {
        for a in &mut acc {
            *a = _mm512_fmadd_ps(x, *a, y);
        }
    }
    black_box(acc);
}

impl Bench {
    fn wants(&self, op: &str) -> bool {
        op.contains(self.only.as_str())
    }

    fn row(&mut self, op: &str, shape: &str, work: Work, time: Time) {
        let (rate, unit, peak) = match work {
            Work::Flops(n) => (n / time.median / 1e9, "GFLOP/s", n / time.median / self.peak_flops),
            Work::Bytes(n) => (n / time.median / 1e9, "GB/s", n / time.median / self.peak_bytes),
        };
        let us = |s: f64| s * 1e6;
        println!(
            "{op:<22} {shape:<26} {:>10.1} {:>8.1}..{:<7.1} {rate:>6.1} {unit:<7} {:>4.0}%",
            us(time.median),
            us(time.p10),
            us(time.p90),
            peak * 100.0
        );
        let threads = self.cpu.pool.threads();
        if let Some(json) = &mut self.json {
            let row = serde_json::json!({
                "op": op, "shape": shape, "threads": threads, "median_us": us(time.median), "p10_us": us(time.p10),
                "p90_us": us(time.p90), "rate": rate, "unit": unit, "peak": peak,
            });
            writeln!(json, "{row}").expect("write the row");
        }
    }

    fn peaks(&mut self) {
        let (isa, threads) = (self.cpu.isa, self.cpu.pool.threads());
        const ROUNDS: usize = 20_000;
        let flops = fma_peak(isa, ROUNDS);
        let one = time(|| {
            black_box(fma_peak(isa, ROUNDS));
        });
        self.row("peak_fma", "1 thread", Work::Flops(flops), one);
        let cpu = self.cpu.clone();
        let all = time(|| {
            cpu.pool.run(threads * 8, |_| {
                black_box(fma_peak(isa, ROUNDS));
            })
        });
        let flops = flops * 8.0 * threads as f64;
        let peak = flops / all.median;
        self.row("peak_fma", &format!("{threads} threads"), Work::Flops(flops), all);
        self.peak_flops = peak;
        const PART: usize = 1 << 20;
        let from = vec![1f32; 32 * PART];
        let mut to = vec![0f32; 32 * PART];
        let to = Shared::new(&mut to);
        let copy = time(|| {
            cpu.pool.run(32, |i| {
                // SAFETY: each task has a part of its own.
                unsafe { to.part(i * PART, PART) }.copy_from_slice(&from[i * PART..][..PART]);
            })
        });
        let bytes = (from.len() * 8) as f64;
        let peak = bytes / copy.median;
        self.row("peak_copy", &format!("{threads} threads, 128 MiB"), Work::Bytes(bytes), copy);
        self.peak_bytes = peak;
    }

    fn gemm(&mut self) {
        type Gemm = fn(&Device, View, View, ViewMut, usize, usize, usize, Store) -> haggle::Result<()>;
        let decode = [1, 2, 4, 8, 16, 32, 64, 128];
        let layers = [(128, 128), (64, 128), (384, 128), (128, 384), (512, 128), (2048, 128), (256, 256)];
        let mut rows: Vec<(&str, Gemm, usize, usize, usize)> = Vec::new();
        for m in decode {
            rows.extend(layers.iter().map(|&(n, k)| ("gemm_nt", gemm_nt as Gemm, m, n, k)));
        }
        for m in [2048, 8192] {
            for (n, k) in layers {
                rows.push(("gemm_nt", gemm_nt, m, n, k));
                rows.push(("gemm_nn", gemm_nn, m, k, n));
                rows.push(("gemm_tn", gemm_tn, n, k, m));
            }
        }
        for (op, gemm, m, n, k) in rows {
            if !self.wants(op) {
                continue;
            }
            let dev = self.dev.clone();
            let (a, b, mut c) = (noise(&dev, m * k), noise(&dev, n * k), dev.zeros(DType::F32, m * n));
            let t =
                time(|| gemm(&dev, a.view(), b.view(), c.view_mut(), m, n, k, Store::Set).expect("shapes are right"));
            self.row(op, &format!("M {m} N {n} K {k}"), Work::Flops(2.0 * (m * n * k) as f64), t);
        }
    }

    /// 64 packed sequences of 192 tokens: 4 D operations a pair of query and visible key forward, 10 D backward.
    fn attn(&mut self) {
        if !self.wants("attn_fwd") && !self.wants("attn_bwd") {
            return;
        }
        let (b, t) = (64, 192);
        for (h, hk, d) in [(4, 2, 32), (16, 8, 128)] {
            let (dev, n) = (self.dev.clone(), b * t);
            let heads = Heads { q: h, kv: hk, dim: d, scale: 1.0 / (d as f32).sqrt() };
            let cu: Vec<i32> = (0..=b).map(|i| (i * t) as i32).collect();
            let cu = dev.upload(&cu);
            let [q, d_o] = [noise(&dev, n * h * d), noise(&dev, n * h * d)];
            let [k, v] = [noise(&dev, n * hk * d), noise(&dev, n * hk * d)];
            let [mut o, mut dq] = [dev.zeros(DType::F32, n * h * d), dev.zeros(DType::F32, n * h * d)];
            let [mut dk, mut dv] = [dev.zeros(DType::F32, n * hk * d), dev.zeros(DType::F32, n * hk * d)];
            let mut lse = dev.zeros(DType::F32, n * h);
            let (q, k, v, cu) = (q.view(), k.view(), v.view(), cu.view());
            let fwd = time(|| attn_fwd(&dev, q, k, v, cu, o.view_mut(), lse.view_mut(), heads).expect("shapes"));
            let bwd = time(|| {
                let (dq, dk, dv) = (dq.view_mut(), dk.view_mut(), dv.view_mut());
                attn_bwd(&dev, d_o.view(), q, k, v, o.view(), lse.view(), cu, dq, dk, dv, heads).expect("shapes");
            });
            let (shape, pairs) = (format!("{b} x {t}, H {h} Hk {hk} D {d}"), (b * t * (t + 1) / 2 * h) as f64);
            self.row("attn_fwd", &shape, Work::Flops(4.0 * d as f64 * pairs), fwd);
            self.row("attn_bwd", &shape, Work::Flops(10.0 * d as f64 * pairs), bwd);
        }
    }

    /// One token of each of 64 sequences of 160 keys, and 64 prompts of 128 tokens at once.
    fn attn_decode(&mut self) {
        if !self.wants("attn_decode") {
            return;
        }
        let (dev, b, max_pages) = (self.dev.clone(), 64, 6);
        let heads = Heads { q: 4, kv: 2, dim: 32, scale: 0.176_776_7 };
        let pages = noise(&dev, pages_len(b * max_pages, heads));
        let table = dev.upload(&(0..(b * max_pages) as i32).collect::<Vec<_>>());
        for (name, from, upto) in [("decode 64, 160 keys", 159, 160), ("prefill 64 x 128", 0, 4 * CHUNK)] {
            let rows: Vec<(i32, i32)> = (0..b).flat_map(|s| (from..upto).map(move |p| (s as i32, p as i32))).collect();
            let seq = dev.upload(&rows.iter().map(|r| r.0).collect::<Vec<_>>());
            let pos = dev.upload(&rows.iter().map(|r| r.1).collect::<Vec<_>>());
            let (q, mut o) = (noise(&dev, rows.len() * 128), dev.zeros(DType::F32, rows.len() * 128));
            let at = Paged { seq: seq.view(), pos: pos.view(), table: table.view(), max_pages };
            let t = time(|| {
                attn_decode(&dev, q.view(), pages.view(), pages.view(), at, o.view_mut(), heads).expect("shapes")
            });
            let pairs: i32 = rows.iter().map(|r| (r.1 + 1) * 4).sum();
            self.row("attn_decode", name, Work::Flops(4.0 * 32.0 * pairs as f64), t);
        }
    }
}
