//! The microkernel in plain Rust: 16 columns, in lanes that LLVM turns into the target's vectors.

use super::{Ahead, Kernels, Packs, Set, Tile, pack};
use crate::device::cpu::float::Float;

const MR: usize = 4;
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
    Packs { transpose, copy_a: pack::copy::<T, MR>, copy_b: pack::copy::<T, NR>, row: pack::row, in_place }
}

static ROWS: [Tile; MR] = [tile::<1, false>, tile::<2, false>, tile::<3, false>, tile::<4, false>];
static COLS: [Tile; MR] = [tile::<1, true>, tile::<2, true>, tile::<3, true>, tile::<4, true>];

/// One tile; element (i, q) of A stands at `i lda + q`, or at `q MR + i` when `BY_STEP`.
///
/// # Safety
/// As [`Tile`] says.
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
    let mut acc = [[0f32; NR]; M];
    for i in 0..M {
        if load {
            // SAFETY: row i of the tile of C.
            acc[i] = unsafe { c.add(i * ldc).cast::<[f32; NR]>().read_unaligned() };
        }
    }
    for q in 0..kc {
        // SAFETY: step q < kc of the packed operands.
        let b = unsafe { b.add(q * NR).cast::<[f32; NR]>().read_unaligned() };
        for i in 0..M {
            // SAFETY: as above.
            let x = unsafe { *a.add(i * row + q * step) };
            for j in 0..NR {
                acc[i][j] = x.mul_add(b[j], acc[i][j]);
            }
        }
    }
    for i in 0..M {
        // SAFETY: row i of the tile of C.
        unsafe { c.add(i * ldc).cast::<[f32; NR]>().write_unaligned(acc[i]) };
    }
}

/// # Safety
/// As [`pack::transpose`].
unsafe fn transpose<T: Float>(b: *const T, ld: usize, width: usize, kc: usize, panel: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { pack::transpose(b, ld, width, kc, panel, NR) }
}
