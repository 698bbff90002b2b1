//! The registers of x86-64, and the products on them. What a machine has, `mm` and `mm_pairs` ask.

use super::blocks;
use super::lanes::{Element, Float, Lanes, Pair};
use std::arch::x86_64::*;

impl Lanes for __m512 {
    const W: usize = 16;
    const MR: usize = 8;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen floats are readable and the machine has AVX-512, says the caller.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above, writable.
        unsafe { _mm512_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the machine has AVX-512.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: the machine has AVX-512.
        unsafe { _mm512_fmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn halves(self) -> [Self; 2] {
        // SAFETY: the machine has AVX-512.
        unsafe {
            let pairs = _mm512_castps_si512(self);
            let (even, odd) = (_mm512_slli_epi32::<16>(pairs), _mm512_and_si512(pairs, _mm512_set1_epi32(!0xFFFF)));
            [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd)]
        }
    }
}

impl Lanes for __m256 {
    const W: usize = 8;
    const MR: usize = 4;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: eight floats are readable and the machine has AVX2, says the caller.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above, writable.
        unsafe { _mm256_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the machine has AVX2.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: the machine has FMA.
        unsafe { _mm256_fmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn halves(self) -> [Self; 2] {
        // SAFETY: the machine has AVX2.
        unsafe {
            let pairs = _mm256_castps_si256(self);
            let (even, odd) = (_mm256_slli_epi32::<16>(pairs), _mm256_and_si256(pairs, _mm256_set1_epi32(!0xFFFF)));
            [_mm256_castsi256_ps(even), _mm256_castsi256_ps(odd)]
        }
    }
}

/// An element is a pair that the CPU multiplies.
pub(super) struct Dot;

impl Element<__m512> for Dot {
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the machine has AVX-512 BF16, says the caller; 512 bits are thirty-two bf16.
        unsafe {
            let pairs = |x: __m512| std::mem::transmute::<__m512, __m512bh>(x);
            _mm512_dpbf16_ps(c, pairs(a), pairs(b))
        }
    }
    #[inline(always)]
    fn add_one(a: f32, b: f32, c: f32) -> f32 {
        <Pair as Element<__m512>>::add_one(a, b, c)
    }
}

product!(floats_avx512, __m512, Float, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");
product!(floats_avx2, __m256, Float, "avx2,fma");
product!(pairs_avx512_bf16, __m512, Dot, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16");
product!(pairs_avx512, __m512, Pair, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");
product!(pairs_avx2, __m256, Pair, "avx2,fma");
