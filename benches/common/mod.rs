//! What the benchmarks of whole workloads share: options, the peak, one line a result.

#![allow(dead_code)]

use haggle::device::cpu::{Cpu, math::Isa};
use haggle::model::ModelConfig;
use std::hint::black_box;
use std::time::Instant;

/// Options of a benchmark.
pub struct Options {
    /// CPU threads, 0 for all.
    pub threads: usize,
    /// Measured repetitions, after one to warm up.
    pub repeat: usize,
    /// Print one JSON object a result instead of a table.
    pub json: bool,
    /// Run only the cases whose name contains this.
    pub only: String,
    /// Rows of one engine forward.
    pub rows: usize,
}

impl Options {
    /// From the command line.
    pub fn parse() -> Options {
        let mut o = Options { threads: 0, repeat: 5, json: false, only: String::new(), rows: 1024 };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut number = || args.next().and_then(|n| n.parse().ok()).expect("a number after the option");
            match arg.as_str() {
                "--bench" => {}
                "--json" => o.json = true,
                "--threads" => o.threads = number(),
                "--repeat" => o.repeat = number(),
                "--rows" => o.rows = number(),
                case => o.only = case.to_string(),
            }
        }
        o
    }
}

/// What a case did in each repetition.
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// Tokens counted.
    pub tokens: usize,
    /// Floating-point operations.
    pub flops: f64,
}

/// Runs a case and prints tokens/s, GFLOP/s and the share of the measured multiply-add peak.
pub fn measure(o: &Options, cpu: &Cpu, work: Workload, mut run: impl FnMut()) {
    if !work.name.contains(o.only.as_str()) {
        return;
    }
    run();
    let mut seconds: Vec<f64> = (0..o.repeat.max(1))
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let (rate, gflops) = (work.tokens as f64 / median, work.flops / median / 1e9);
    let peak = peak_gflops(cpu);
    if o.json {
        let row = serde_json::json!({
            "case": work.name, "threads": cpu.pool.threads(), "tok_per_s": rate, "seconds": median,
            "seconds_min": seconds[0], "seconds_max": seconds[seconds.len() - 1], "gflops": gflops, "peak_gflops": peak,
        });
        println!("{row}");
    } else {
        let (min, max) = (seconds[0] * 1e3, seconds[seconds.len() - 1] * 1e3);
        println!(
            "{:<16} {rate:>9.0} tok/s   {:>8.1} ms ({min:.1}..{max:.1})   {gflops:>6.1} GFLOP/s, {:.0} % of {peak:.0}",
            work.name,
            median * 1e3,
            100.0 * gflops / peak
        );
    }
}

/// Floating-point operations of one token's row at 0-based position `pos`, head left out.
pub fn row_flops(c: &ModelConfig, pos: usize) -> f64 {
    let linear = c.hidden_size * (2 * c.q_dim() + 2 * c.kv_dim() + 3 * c.intermediate_size);
    let attention = 2 * c.q_dim() * (pos + 1);
    (2 * c.num_hidden_layers * (linear + attention)) as f64
}

/// Floating-point operations of one row's logits.
pub fn head_flops(c: &ModelConfig) -> f64 {
    (2 * c.hidden_size * c.vocab_size) as f64
}

/// GFLOP/s of chains of multiply-adds in registers on all threads: the most the cores can do.
pub fn peak_gflops(cpu: &Cpu) -> f64 {
    const ROUNDS: usize = 100_000;
    let tasks = cpu.pool.threads() * 8;
    let once = || {
        let start = Instant::now();
        cpu.pool.run(tasks, |_| {
            fma_chains(cpu.isa, ROUNDS);
        });
        fma_flops(cpu.isa, ROUNDS) * tasks as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    let mut rates: Vec<f64> = (0..5).map(|_| once()).collect();
    rates.sort_by(f64::total_cmp);
    rates[2]
}

/// Twelve chains of multiply-adds, 16 or 8 lanes each.
pub fn fma_chains(isa: Isa, rounds: usize) {
    match isa {
        // SAFETY: the device has found AVX-512.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { fma_chains_avx512(rounds) },
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
}

/// Floating-point operations of [`fma_chains`].
pub fn fma_flops(isa: Isa, rounds: usize) -> f64 {
    let lanes = if isa == Isa::Avx512 { 192 } else { 96 };
    (lanes * 2 * rounds) as f64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn fma_chains_avx512(rounds: usize) {
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
