//! What this machine's cores can do at most: multiply-adds in registers, and a copy that no cache holds.

use super::math::Isa;
use super::{Cpu, pool::Shared};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Calls a second of the median of samples over a tenth of a second.
fn rate(mut call: impl FnMut()) -> f64 {
    call();
    let (begin, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < 5 || begin.elapsed() < Duration::from_millis(100) {
        let start = Instant::now();
        call();
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    1.0 / seconds[seconds.len() / 2]
}

/// Bytes a second of a copy of 128 MiB on all threads.
pub fn copy_rate(cpu: &Cpu) -> f64 {
    const PART: usize = 1 << 20;
    let from = vec![1f32; 32 * PART];
    let mut to = vec![0f32; 32 * PART];
    let to = Shared::new(&mut to);
    let copies = rate(|| {
        cpu.pool.run(32, |i| {
            // SAFETY: each task has a part of its own.
            unsafe { to.part(i * PART, PART) }.copy_from_slice(&from[i * PART..][..PART]);
        })
    });
    copies * (from.len() * 8) as f64
}

/// Bytes a second of copies on all threads that stay in the caches next to the cores.
pub fn cache_rate(cpu: &Cpu) -> f64 {
    const PART: usize = 1 << 15;
    const ROUNDS: usize = 64;
    let tasks = cpu.pool.threads();
    let mut from = vec![1f32; tasks * PART];
    let mut to = vec![0f32; tasks * PART];
    let (from, to) = (Shared::new(&mut from), Shared::new(&mut to));
    let copies = rate(|| {
        cpu.pool.run(tasks, |i| {
            // SAFETY: each task has parts of its own.
            let (from, to) = unsafe { (from.part(i * PART, PART), to.part(i * PART, PART)) };
            (0..ROUNDS).for_each(|_| black_box(&mut *to).copy_from_slice(black_box(&*from)));
        })
    });
    copies * (tasks * PART * ROUNDS * 8) as f64
}

/// FLOPs a second of the multiply-adds of matrix products, in registers on all threads; `pairs` where they multiply pairs of
/// bf16, if the CPU can.
pub fn fma_rate(cpu: &Cpu, pairs: bool) -> f64 {
    const ROUNDS: usize = 20_000;
    #[cfg(target_arch = "x86_64")]
    let pairs = pairs && cpu.isa == Isa::Avx512 && is_x86_feature_detected!("avx512bf16");
    let tasks = cpu.pool.threads() * 8;
    let calls = rate(|| {
        cpu.pool.run(tasks, |_| match pairs {
            // SAFETY: the device has found AVX-512 BF16.
            #[cfg(target_arch = "x86_64")]
            true => unsafe { pair_chains(ROUNDS) },
            _ => fma_chains(cpu.isa, ROUNDS),
        })
    });
    let lanes = if cpu.isa == Isa::Avx512 { 192 } else { 96 };
    calls * (tasks * lanes * if pairs { 4 } else { 2 } * ROUNDS) as f64
}

/// Twelve chains of multiply-adds, of 16 lanes or 8: the most a core can do.
fn fma_chains(isa: Isa, rounds: usize) {
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

/// The same on pairs of bf16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pair_chains(rounds: usize) {
    use std::arch::x86_64::{_mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_set1_ps};
    let x = _mm512_set1_ps(black_box(0.001));
    let x = _mm512_cvtne2ps_pbh(x, x);
    let mut acc = [_mm512_set1_ps(1.0); 12];
    for _ in 0..rounds {
        for a in &mut acc {
            *a = _mm512_dpbf16_ps(*a, x, x);
        }
    }
    black_box(acc);
}
