//! Timing, this machine's peaks, and one line a result.

use haggle::device::cpu::{Cpu, math::Isa, pool::Shared};
use haggle::device::{Buffer, DType, Device};
use haggle::noise::Noise;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an op is bound by, and how much of it one call uses.
#[derive(Clone, Copy)]
pub enum Work {
    /// Floating-point operations.
    Flops(f64),
    /// Bytes read and written.
    Bytes(f64),
}

/// Seconds of one call.
pub struct Time {
    median: f64,
    /// 10th and 90th percentile.
    p10: f64,
    p90: f64,
}

/// A device, its peaks, and where results go.
pub struct Bench {
    /// Where the ops run.
    pub dev: Device,
    cpu: Arc<Cpu>,
    only: Vec<String>,
    json: Option<std::fs::File>,
    peak_flops: f64,
    peak_bytes: f64,
}

/// Times `call`: samples of at least 200 us each, for at least 0.1 s.
fn time(mut call: impl FnMut()) -> Time {
    let start = Instant::now();
    call();
    let once = start.elapsed().as_secs_f64().max(1e-9);
    let calls = (2e-4 / once).ceil().max(1.0) as usize;
    let mut samples = Vec::new();
    let begin = Instant::now();
    while samples.len() < 9 || begin.elapsed() < Duration::from_millis(100) {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        samples.push(start.elapsed().as_secs_f64() / calls as f64);
    }
    samples.sort_by(f64::total_cmp);
    let at = |q: f64| samples[((samples.len() - 1) as f64 * q) as usize];
    Time { median: at(0.5), p10: at(0.1), p90: at(0.9) }
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
    /// Opens the CPU, measures its peaks and prints the head of the table; `only` are parts of the names to run.
    pub fn open(threads: usize, only: Vec<String>, json: Option<std::fs::File>) -> Bench {
        let cpu = Arc::new(Cpu::new(threads));
        let dev = Device::Cpu(cpu.clone());
        let mut bench = Bench { dev, cpu, only, json, peak_flops: f64::INFINITY, peak_bytes: f64::INFINITY };
        println!("{:?}, {} threads", bench.cpu.isa, bench.cpu.pool.threads());
        println!("{:<20} {:<28} {:>10} {:>17} {:>14} {:>5}", "op", "shape", "median us", "p10..p90", "rate", "peak");
        bench.peaks();
        bench
    }

    /// Uniform noise in (-0.5, 0.5).
    pub fn noise(&self, len: usize) -> Buffer {
        let noise = Noise::new(1, len as u64);
        self.dev.upload(&(0..len as u64).map(|i| noise.uniform(i) - 0.5).collect::<Vec<f32>>())
    }

    /// Zeros, f32.
    pub fn zeros(&self, len: usize) -> Buffer {
        self.dev.zeros(DType::F32, len)
    }

    /// Times one op at one shape and prints its row.
    pub fn op(&mut self, op: &str, shape: &str, work: Work, call: impl FnMut(&Device)) {
        let mut call = call;
        if self.only.is_empty() || self.only.iter().any(|o| op.contains(o.as_str())) {
            let dev = self.dev.clone();
            let t = time(|| call(&dev));
            self.row(op, shape, work, t);
        }
    }

    fn row(&mut self, op: &str, shape: &str, work: Work, time: Time) {
        let (rate, unit, peak) = match work {
            Work::Flops(n) => (n / time.median / 1e9, "GFLOP/s", n / time.median / self.peak_flops),
            Work::Bytes(n) => (n / time.median / 1e9, "GB/s", n / time.median / self.peak_bytes),
        };
        let us = |s: f64| s * 1e6;
        println!(
            "{op:<20} {shape:<28} {:>10.1} {:>8.1}..{:<7.1} {rate:>6.1} {unit:<7} {:>4.0}%",
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
}
