//! The microkernel in AVX2 and FMA: 6 rows of 16 columns, twelve accumulators of sixteen registers.

use super::{Ahead, Kernels, Packs, Set, Tile, pack};
use crate::device::cpu::float::Float;
use std::arch::x86_64::*;

const MR: usize = 6;
const NR: usize = 16;

pub(super) struct F32;

impl Set for F32 {
    const KERNELS: Kernels = Kernels {
        mr: MR,
        nr: NR,
        step: MR,
        steps: 1,
        halves: false,
        rows: &ROWS,
        cols: &COLS,
        f32: packs(true),
        bf16: packs(false),
    };
}

const fn packs<T: Float>(in_place: bool) -> Packs<T> {
    Packs { transpose, copy_a: copy::<T, MR>, copy_b: copy::<T, NR>, row: pack::row, in_place }
}

macro_rules! tiles {
    ($by_step:literal; $($m:literal)*) => { [$(tile::<$m, $by_step>),*] };
}
static ROWS: [Tile; MR] = tiles!(false; 1 2 3 4 5 6);
static COLS: [Tile; MR] = tiles!(true; 1 2 3 4 5 6);

/// One tile; element (i, q) of A stands at `i lda + q`, or at `q MR + i` when `BY_STEP`.
///
/// # Safety
/// As [`Tile`] says, on a machine with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const M: usize, const BY_STEP: bool>(
    kc: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    c: *mut f32,
    ldc: usize,
    load: bool,
    _: [Ahead; 2],
) {
    let (row, step) = if BY_STEP { (1, MR) } else { (lda, 1) };
    // SAFETY: rows of C, and steps below kc of the packed operands, as the caller promises.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; M];
        if load {
            for i in 0..M {
                acc[i] = [_mm256_loadu_ps(c.add(i * ldc)), _mm256_loadu_ps(c.add(i * ldc + 8))];
            }
        }
        for q in 0..kc {
            let (b0, b1) = (_mm256_loadu_ps(b.add(q * NR)), _mm256_loadu_ps(b.add(q * NR + 8)));
            for i in 0..M {
                let x = _mm256_set1_ps(*a.add(i * row + q * step));
                acc[i] = [_mm256_fmadd_ps(x, b0, acc[i][0]), _mm256_fmadd_ps(x, b1, acc[i][1])];
            }
        }
        for i in 0..M {
            _mm256_storeu_ps(c.add(i * ldc), acc[i][0]);
            _mm256_storeu_ps(c.add(i * ldc + 8), acc[i][1]);
        }
    }
}

/// # Safety
/// As [`pack::transpose`], on a machine with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn transpose<T: Float>(b: *const T, ld: usize, width: usize, kc: usize, panel: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { pack::transpose(b, ld, width, kc, panel, NR) }
}

/// # Safety
/// As [`pack::copy`], on a machine with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn copy<T: Float, const W: usize>(from: *const T, ld: usize, width: usize, kc: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { pack::copy::<T, W>(from, ld, width, kc, to) }
}
