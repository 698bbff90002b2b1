//! Pairs of bf16 on AVX-512 BF16, for twice the multiply-adds an instruction.
//!
//! `vdpbf16ps` adds to a float the product of the upper halves, rounds, then that of the lower halves, rounds: so the
//! even step of K goes to the upper half, and the sum is the chain over ascending K (found by trying on Zen 4, as the
//! test does; Intel documents the same).

use super::narrow::Narrow;
use super::{Kernels, avx512};
use std::arch::x86_64::*;

pub(super) const KERNELS: Kernels = Kernels { narrow: Some(&PAIR), ..avx512::PAIRS };

static PAIR: Narrow = Narrow { steps: 2, steps_of: pair_steps, row: pair_row };

/// Whether this machine has it.
pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

/// # Safety
/// `x` holds `width kc` floats; `width` is a multiple of 16; the machine has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pair_steps(x: *mut f32, width: usize, kc: usize) {
    let halves = |at: usize| {
        // SAFETY: sixteen floats of a step below kc.
        let x = _mm512_cvtneps_pbh(unsafe { _mm512_loadu_ps(x.add(at)) });
        // SAFETY: sixteen halves are 256 bits, whatever they are called.
        _mm512_cvtepu16_epi32(unsafe { std::mem::transmute::<__m256bh, __m256i>(x) })
    };
    for q in (0..kc).step_by(2) {
        for v in (0..width).step_by(16) {
            let upper = _mm512_slli_epi32::<16>(halves(q * width + v));
            let lower = if q + 1 < kc { halves((q + 1) * width + v) } else { _mm512_setzero_si512() };
            // SAFETY: what stood here, at or before step q, has been read.
            unsafe { _mm512_storeu_si512(x.add(q / 2 * width + v).cast(), _mm512_or_si512(upper, lower)) };
        }
    }
}

/// # Safety
/// `from` holds `kc` floats, `to` half as many, rounded up; the machine has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pair_row(from: *const f32, kc: usize, to: *mut f32) {
    for q in (0..kc).step_by(32) {
        let lanes = |left: usize| (0xFFFFu32 >> (16 - left.min(16))) as u16;
        let left = kc - q;
        // SAFETY: the masks let through floats below kc, and their pairs, alone.
        unsafe {
            let first = _mm512_maskz_loadu_ps(lanes(left), from.add(q));
            let second = _mm512_maskz_loadu_ps(lanes(left.saturating_sub(16)), from.wrapping_add(q + 16));
            let pairs = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
            _mm512_mask_storeu_epi32(to.add(q / 2).cast(), lanes(left.div_ceil(2)), _mm512_rol_epi32::<16>(pairs));
        }
    }
}
