//! Packing: the operands in the order in which a microkernel reads them.

use super::{A_STRIDE, KC, Kernels, NC, Product};
use std::ops::Range;

/// Rows of the tallest tile of any instruction set.
pub(super) const MAX_MR: usize = 14;
/// Floats a step of a tile of A packed by steps, at most.
const MAX_STEP: usize = 16;
/// Columns of the widest.
pub(super) const MAX_NR: usize = 32;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Room for one packed tile of A and the packed panels of one block of B.
pub(super) struct Scratch(Vec<Line>);

impl Scratch {
    pub(super) const fn empty() -> Scratch {
        Scratch(Vec::new())
    }

    /// (A, B); allocates the first time.
    pub(super) fn get(&mut self) -> (&mut [f32], &mut [f32]) {
        let (a, b) = (MAX_STEP * A_STRIDE, NC * KC);
        self.0.resize((a + b) / 16, Line([0.0; 16]));
        // SAFETY: a Line is 16 floats.
        let floats = unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<f32>(), a + b) };
        floats.split_at_mut(a)
    }
}

/// Steps `k0..k0 + kc` of `rows` of A as a microkernel reads them, and the floats from row to row: in place where
/// possible, else packed into `to`, `[mr, A_STRIDE]` or, for A stored `[K, M]`, by steps.
pub(super) fn pack_a<'a>(
    p: &Product<'a>,
    kernels: &Kernels,
    k0: usize,
    kc: usize,
    rows: Range<usize>,
    to: &'a mut [f32],
) -> (&'a [f32], usize) {
    if p.a_by_k {
        // SAFETY: steps k0..k0 + kc of A hold columns `rows`; `to` holds MAX_STEP A_STRIDE >= kc step floats.
        unsafe { (kernels.copy_a)(p.a.as_ptr().add(k0 * p.m + rows.start), p.m, rows.len(), kc, to.as_mut_ptr()) };
        return (to, 0);
    }
    // Rows a multiple of 4 KiB apart share their cache sets, of 8 or 12 lines each.
    if p.k % 1024 != 0 {
        return (&p.a[rows.start * p.k + k0..], p.k);
    }
    for (i, to) in rows.zip(to.chunks_exact_mut(A_STRIDE)) {
        to[..kc].copy_from_slice(&p.a[i * p.k + k0..][..kc]);
    }
    (to, A_STRIDE)
}

/// Packs `cols` of B over `k0..k0 + kc` into panels `[kc, nr]`, the last one filled up with zeros.
pub(super) fn pack_b(p: &Product, kernels: &Kernels, k0: usize, kc: usize, cols: Range<usize>, to: &mut [f32]) {
    let nr = kernels.nr;
    for (j, panel) in cols.clone().step_by(nr).zip(to.chunks_exact_mut(kc.max(1) * nr)) {
        let (width, panel) = (nr.min(cols.end - j), panel.as_mut_ptr());
        // SAFETY: B holds `width` columns from j on, over kc steps from k0 on; the panel holds kc nr floats.
        unsafe {
            if p.b_by_k {
                (kernels.copy_b)(p.b.as_ptr().add(k0 * p.n + j), p.n, width, kc, panel);
            } else {
                (kernels.transpose)(p.b.as_ptr().add(j * p.k + k0), p.k, width, kc, panel);
            }
        }
    }
}

/// `to [kc, W]` from `kc` rows of `width <= W` floats, `ld` apart; zeros in other columns.
///
/// # Safety
/// `from` and `to` hold that many.
#[inline]
pub(super) unsafe fn copy<const W: usize>(from: *const f32, ld: usize, width: usize, kc: usize, to: *mut f32) {
    for q in 0..kc {
        // SAFETY: row q < kc of both, as promised.
        unsafe {
            let (from, to) = (from.add(q * ld), to.add(q * W));
            if width == W {
                to.cast::<[f32; W]>().write_unaligned(from.cast::<[f32; W]>().read_unaligned());
            } else {
                to.copy_from_nonoverlapping(from, width);
                to.add(width).write_bytes(0, W - width);
            }
        }
    }
}

/// `panel [kc, nr]` from `width <= nr` rows of `b`, `ld` floats apart, element by element; zeros in other columns.
///
/// # Safety
/// `b` holds `width` rows of `kc` floats, `ld` apart; `panel` holds `kc nr` floats.
#[inline(always)]
pub(super) unsafe fn transpose(b: *const f32, ld: usize, width: usize, kc: usize, panel: *mut f32, nr: usize) {
    for q in 0..kc {
        for j in 0..nr {
            // SAFETY: j < width and q < kc, as promised.
            unsafe { *panel.add(q * nr + j) = if j < width { *b.add(j * ld + q) } else { 0.0 } };
        }
    }
}
