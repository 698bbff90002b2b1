//! The microkernel in AVX-512: 14 rows of 32 columns, 28 accumulators of 32 registers.

use super::{A_STRIDE, Kernels, Tile, pack};
use std::arch::x86_64::*;

const MR: usize = 14;
const NR: usize = 32;

pub(super) static KERNELS: Kernels = Kernels { mr: MR, nr: NR, rows: &ROWS, cols: &COLS, transpose };

macro_rules! tiles {
    ($row:expr, $step:expr; $($m:literal)*) => { [$(tile::<$m, { $row }, { $step }>),*] };
}
static ROWS: [Tile; MR] = tiles!(A_STRIDE, 1; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
static COLS: [Tile; MR] = tiles!(1, MR; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);

/// One tile; element (i, q) of A stands at `i ROW + q STEP`.
///
/// # Safety
/// As [`Tile`] says, on a machine with AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const M: usize, const ROW: usize, const STEP: usize>(
    kc: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    ldc: usize,
    load: bool,
) {
    // SAFETY: rows of C, and steps below kc of the packed operands, as the caller promises.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 2]; M];
        if load {
            for i in 0..M {
                acc[i] = [_mm512_loadu_ps(c.add(i * ldc)), _mm512_loadu_ps(c.add(i * ldc + 16))];
            }
        }
        for q in 0..kc {
            let (b0, b1) = (_mm512_loadu_ps(b.add(q * NR)), _mm512_loadu_ps(b.add(q * NR + 16)));
            for i in 0..M {
                let x = _mm512_set1_ps(*a.add(i * ROW + q * STEP));
                acc[i] = [_mm512_fmadd_ps(x, b0, acc[i][0]), _mm512_fmadd_ps(x, b1, acc[i][1])];
            }
        }
        for i in 0..M {
            _mm512_storeu_ps(c.add(i * ldc), acc[i][0]);
            _mm512_storeu_ps(c.add(i * ldc + 16), acc[i][1]);
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
