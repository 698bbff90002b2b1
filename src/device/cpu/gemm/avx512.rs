//! The microkernel in AVX-512: 14 rows of 32 columns, 28 accumulators of 32 registers.

use super::{Kernels, Tile, pack};
use std::arch::x86_64::*;

const MR: usize = 14;
const NR: usize = 32;
/// Floats a step of a packed tile of A by steps: a whole register.
const STEP: usize = 16;

pub(super) static KERNELS: Kernels =
    Kernels { mr: MR, nr: NR, rows: &ROWS, cols: &COLS, transpose, copy_a: copy::<1>, copy_b: copy::<2> };

macro_rules! tiles {
    ($by_step:literal; $($m:literal)*) => { [$(tile::<$m, $by_step>),*] };
}
static ROWS: [Tile; MR] = tiles!(false; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
static COLS: [Tile; MR] = tiles!(true; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);

/// One tile; element (i, q) of A stands at `i lda + q`, or at `q STEP + i` when `BY_STEP`.
///
/// # Safety
/// As [`Tile`] says, on a machine with AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const M: usize, const BY_STEP: bool>(
    kc: usize,
    mut a: *const f32,
    lda: usize,
    mut b: *const f32,
    c: *mut f32,
    ldc: usize,
    load: bool,
) {
    let (row, step) = if BY_STEP { (1, STEP) } else { (lda, 1) };
    // SAFETY: rows of C, and steps below kc of A and of the panel, as the caller promises.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 2]; M];
        if load {
            for i in 0..M {
                acc[i] = [_mm512_loadu_ps(c.add(i * ldc)), _mm512_loadu_ps(c.add(i * ldc + 16))];
            }
        }
        // Two steps a turn are 5 % faster where the offsets are constants; where not, LLVM would spill.
        let turns = if BY_STEP { kc / 2 } else { 0 };
        for _ in 0..turns {
            fma_step(&mut acc, a, row, b);
            fma_step(&mut acc, a.add(step), row, b.add(NR));
            (a, b) = (a.add(2 * step), b.add(2 * NR));
        }
        for _ in 2 * turns..kc {
            fma_step(&mut acc, a, row, b);
            (a, b) = (a.add(step), b.add(NR));
        }
        for i in 0..M {
            _mm512_storeu_ps(c.add(i * ldc), acc[i][0]);
            _mm512_storeu_ps(c.add(i * ldc + 16), acc[i][1]);
        }
    }
}

/// # Safety
/// `a` holds M floats, `row` apart, `b` a step of the panel, 64-byte aligned; the machine has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn fma_step<const M: usize>(acc: &mut [[__m512; 2]; M], a: *const f32, row: usize, b: *const f32) {
    // SAFETY: the caller's promise.
    unsafe {
        // An aligned load goes through no memory copy, and its checks, in builds with debug assertions.
        let (b0, b1) = (_mm512_load_ps(b), _mm512_load_ps(b.add(16)));
        for i in 0..M {
            let x = _mm512_set1_ps(*a.add(i * row));
            acc[i] = [_mm512_fmadd_ps(x, b0, acc[i][0]), _mm512_fmadd_ps(x, b1, acc[i][1])];
        }
    }
}

/// As [`pack::copy`] into rows of `16 V` floats.
///
/// # Safety
/// As there, on a machine with AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn copy<const V: usize>(from: *const f32, ld: usize, width: usize, kc: usize, to: *mut f32) {
    let mut masks = [0u16; V];
    for v in 0..V {
        masks[v] = (0xFFFFu32 >> 16usize.saturating_sub(width.saturating_sub(16 * v))) as u16;
    }
    for q in 0..kc {
        for v in 0..V {
            // SAFETY: the mask lets through lanes below `width` of step q only; `to` holds kc rows of 16 V floats.
            unsafe {
                let x = _mm512_maskz_loadu_ps(masks[v], from.wrapping_add(q * ld + 16 * v));
                _mm512_storeu_ps(to.add((q * V + v) * 16), x);
            }
        }
    }
}

/// As [`pack::transpose`], 16 x 16 elements at a time.
///
/// # Safety
/// As there, on a machine with AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn transpose(b: *const f32, ld: usize, width: usize, kc: usize, panel: *mut f32) {
    let whole = if width == NR { kc / 16 * 16 } else { 0 };
    for q in (0..whole).step_by(16) {
        for j in [0, 16] {
            // SAFETY: rows j..j + 16 < width and columns q..q + 16 <= kc are inside, as the caller promises.
            unsafe { transpose_16x16(b.add(j * ld + q), ld, panel.add(q * NR + j)) };
        }
    }
    // SAFETY: the caller's promise, for the steps from `whole` on.
    unsafe { pack::transpose(b.add(whole), ld, width, kc - whole, panel.add(whole * NR), NR) }
}

/// `to [16, NR]`, its first 16 columns, from 16 rows of `from`, `ld` apart.
///
/// Four quarters of rows 4 apart side by side in a register, then a 4 x 4 transpose in each quarter.
///
/// # Safety
/// Both blocks are in bounds; the machine has AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn transpose_16x16(from: *const f32, ld: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    let quarter = |row: usize, q: usize| unsafe { _mm_loadu_ps(from.add(row * ld + q)) };
    for q in [0, 4, 8, 12] {
        let mut r = [_mm512_setzero_ps(); 4];
        for i in 0..4 {
            let x = _mm512_castps128_ps512(quarter(i, q));
            let x = _mm512_insertf32x4::<1>(x, quarter(i + 4, q));
            let x = _mm512_insertf32x4::<2>(x, quarter(i + 8, q));
            r[i] = _mm512_insertf32x4::<3>(x, quarter(i + 12, q));
        }
        // Now quarter g of r[i] holds steps q..q + 4 of row 4 g + i.
        let (x0, x1) = (_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1]));
        let (x2, x3) = (_mm512_unpacklo_ps(r[2], r[3]), _mm512_unpackhi_ps(r[2], r[3]));
        let pd = |x| _mm512_castps_pd(x);
        let out = [
            _mm512_unpacklo_pd(pd(x0), pd(x2)),
            _mm512_unpackhi_pd(pd(x0), pd(x2)),
            _mm512_unpacklo_pd(pd(x1), pd(x3)),
            _mm512_unpackhi_pd(pd(x1), pd(x3)),
        ];
        for (s, x) in out.into_iter().enumerate() {
            // SAFETY: step q + s of the 16, as the caller promises.
            unsafe { _mm512_storeu_ps(to.add((q + s) * NR), _mm512_castpd_ps(x)) };
        }
    }
}
