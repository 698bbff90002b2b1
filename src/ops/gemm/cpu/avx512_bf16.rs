//! Pairs of bf16 on AVX-512 BF16, for twice the multiply-adds an instruction.
//!
//! A pair holds two steps of K as bf16 lie in memory: the even one in the lower half. `vdpbf16ps` adds to a float the
//! product of the upper halves, rounds, then that of the lower halves, rounds (found by trying on Zen 4, as the tests do;
//! Intel documents the same): so a sum takes the odd step of each pair first.

use super::avx512::{COLS_OF_PAIRS, F32, NR, ROWS_OF_PAIRS, lanes, transpose};
use super::{Kernels, Packs, Set};
use half::bf16;
use std::arch::x86_64::*;

/// The tiles of AVX-512 on pairs.
pub(super) struct Pairs;

impl Set for Pairs {
    const KERNELS: Kernels = Kernels {
        steps: 2,
        rows: &ROWS_OF_PAIRS,
        cols: &COLS_OF_PAIRS,
        f32: Packs { transpose: transpose_pairs, copy_a: pair::<1>, copy_b: pair::<2>, row: pair_row, in_place: false },
        bf16: Packs { transpose: turn, copy_a: weave::<1>, copy_b: weave::<2>, row: copy_row, in_place: true },
        ..F32::KERNELS
    };
}

/// Whether this machine has it.
pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

/// Pairs of two steps of K, 16 columns.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pairs_of(even: __m512, odd: __m512) -> __m512i {
    #[rustfmt::skip]
    let weave = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
        23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0,
    );
    _mm512_permutexvar_epi16(weave, halves(odd, even))
}

/// Thirty-two bf16, those of `upper` in the upper half.
#[target_feature(enable = "avx512f,avx512bf16")]
fn halves(upper: __m512, lower: __m512) -> __m512i {
    // SAFETY: thirty-two halves are 512 bits, whatever they are called.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(upper, lower)) }
}

/// As [`super::pack::copy`] into rows of `16 V` pairs.
///
/// # Safety
/// As there, on a machine with AVX-512 BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pair<const V: usize>(from: *const f32, ld: usize, width: usize, kc: usize, to: *mut f32) {
    let masks: [__mmask16; V] = std::array::from_fn(|v| lanes(width.saturating_sub(16 * v)));
    for q in (0..kc).step_by(2) {
        let odd = if q + 1 < kc { masks } else { [0; V] };
        for v in 0..V {
            let at = from.wrapping_add(q * ld + 16 * v);
            // SAFETY: the masks let through lanes below `width` of steps below kc only; `to` holds as many pairs.
            unsafe {
                let x = _mm512_maskz_loadu_ps(masks[v], at);
                let y = _mm512_maskz_loadu_ps(odd[v], at.wrapping_add(ld));
                _mm512_storeu_si512(to.add((q / 2 * V + v) * 16).cast(), pairs_of(x, y));
            }
        }
    }
}

/// As [`super::pack::transpose`], into pairs; through floats in the same place.
///
/// # Safety
/// As there, on a machine with AVX-512 BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn transpose_pairs(b: *const f32, ld: usize, width: usize, kc: usize, panel: *mut f32) {
    // SAFETY: the caller's promise; step q / 2 of the pairs lies at or before step q of the floats.
    unsafe {
        transpose(b, ld, width, kc, panel);
        pair::<2>(panel, NR, NR, kc, panel);
    }
}

/// `kc` floats of a row to half as many pairs.
///
/// # Safety
/// `from` holds `kc` floats, `to` has room for the pairs; the machine has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pair_row(from: *const f32, kc: usize, to: *mut f32) {
    let whole = kc / 32 * 32;
    for q in (0..whole).step_by(32) {
        // SAFETY: thirty-two floats below kc, and their pairs.
        unsafe {
            let x = halves(_mm512_loadu_ps(from.add(q + 16)), _mm512_loadu_ps(from.add(q)));
            _mm512_storeu_si512(to.add(q / 2).cast(), x);
        }
    }
    let left = kc - whole;
    // SAFETY: the masks let through floats below kc, and their pairs, alone.
    unsafe {
        let lower = _mm512_maskz_loadu_ps(lanes(left), from.wrapping_add(whole));
        let upper = _mm512_maskz_loadu_ps(lanes(left.saturating_sub(16)), from.wrapping_add(whole + 16));
        _mm512_mask_storeu_epi32(to.wrapping_add(whole / 2).cast(), lanes(left.div_ceil(2)), halves(upper, lower));
    }
}

/// As [`super::pack::copy`] into rows of `16 V` pairs: two rows of bf16 woven into one of pairs.
///
/// # Safety
/// As there, on a machine with AVX-512 BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn weave<const V: usize>(from: *const bf16, ld: usize, width: usize, kc: usize, to: *mut f32) {
    #[rustfmt::skip]
    let first = _mm512_set_epi16(
        47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
        39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0,
    );
    let parts: [__m512i; V] = std::array::from_fn(|v| _mm512_add_epi16(first, _mm512_set1_epi16(16 * v as i16)));
    let mask = u32::MAX >> (32 - width);
    for q in (0..kc).step_by(2) {
        let odd = if q + 1 < kc { mask } else { 0 };
        let at = from.wrapping_add(q * ld).cast();
        // SAFETY: the masks let through lanes below `width` of steps below kc only; `to` holds as many pairs.
        unsafe {
            let x = _mm512_maskz_loadu_epi16(mask, at);
            let y = _mm512_maskz_loadu_epi16(odd, at.wrapping_add(ld));
            for v in 0..V {
                _mm512_storeu_si512(to.add((q / 2 * V + v) * 16).cast(), _mm512_permutex2var_epi16(x, parts[v], y));
            }
        }
    }
}

/// `kc` bf16 of a row, and a zero where the last pair wants one.
///
/// # Safety
/// `from` holds `kc`, `to` has room for the pairs.
unsafe fn copy_row(from: *const bf16, kc: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let to = to.cast::<bf16>();
        to.copy_from_nonoverlapping(from, kc);
        to.add(kc).write_bytes(0, kc % 2);
    }
}

/// As [`super::pack::transpose`] to pairs of 32 columns, element by element.
///
/// # Safety
/// As there.
unsafe fn turn(b: *const bf16, ld: usize, width: usize, kc: usize, panel: *mut f32) {
    let panel = panel.cast::<bf16>();
    for q in 0..kc.next_multiple_of(2) {
        for j in 0..NR {
            // SAFETY: row j < width and step q < kc, as promised; the panel has room for the pairs of all columns.
            unsafe {
                let x = if j < width && q < kc { *b.add(j * ld + q) } else { bf16::ZERO };
                panel.add((q / 2 * NR + j) * 2 + q % 2).write(x);
            }
        }
    }
}
