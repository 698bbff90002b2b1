//! The microkernel in plain Rust: 16 columns, in lanes that LLVM turns into the target's vectors.

use super::{A_STRIDE, Kernels, Tile, pack};

const MR: usize = 4;
const NR: usize = 16;

pub(super) static KERNELS: Kernels = Kernels { mr: MR, nr: NR, rows: &ROWS, cols: &COLS, transpose };

static ROWS: [Tile; MR] =
    [tile::<1, A_STRIDE, 1>, tile::<2, A_STRIDE, 1>, tile::<3, A_STRIDE, 1>, tile::<4, A_STRIDE, 1>];
static COLS: [Tile; MR] = [tile::<1, 1, MR>, tile::<2, 1, MR>, tile::<3, 1, MR>, tile::<4, 1, MR>];

/// One tile; element (i, q) of A stands at `i ROW + q STEP`.
///
/// # Safety
/// As [`Tile`] says.
unsafe fn tile<const M: usize, const ROW: usize, const STEP: usize>(
    kc: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    ldc: usize,
    load: bool,
) {
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
            let x = unsafe { *a.add(i * ROW + q * STEP) };
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
unsafe fn transpose(b: *const f32, ld: usize, width: usize, kc: usize, panel: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { pack::transpose(b, ld, width, kc, panel, NR) }
}
