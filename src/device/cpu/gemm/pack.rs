//! Packing: the operands in the order in which a microkernel reads them.

use super::{A_STRIDE, KC, Kernels, NC, Product};
use std::ops::Range;

/// Rows of the tallest tile of any instruction set.
pub(super) const MAX_MR: usize = 14;
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
        let (a, b) = (MAX_MR * A_STRIDE, NC * KC);
        self.0.resize((a + b) / 16, Line([0.0; 16]));
        // SAFETY: a Line is 16 floats.
        let floats = unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<f32>(), a + b) };
        floats.split_at_mut(a)
    }
}

/// Packs `rows` of A over `k0..k0 + kc`: `[mr, A_STRIDE]` when A is stored by rows, else `[kc, mr]`.
pub(super) fn pack_a(p: &Product, kernels: &Kernels, k0: usize, kc: usize, rows: Range<usize>, to: &mut [f32]) {
    if p.a_by_k {
        let (mr, m) = (kernels.mr, rows.len());
        for (q, to) in to.chunks_exact_mut(mr).take(kc).enumerate() {
            to[..m].copy_from_slice(&p.a[(k0 + q) * p.m + rows.start..][..m]);
        }
    } else {
        for (i, to) in rows.zip(to.chunks_exact_mut(A_STRIDE)) {
            to[..kc].copy_from_slice(&p.a[i * p.k + k0..][..kc]);
        }
    }
}

/// Packs `cols` of B over `k0..k0 + kc` into panels `[kc, nr]`, the last one filled up with zeros.
pub(super) fn pack_b(p: &Product, kernels: &Kernels, k0: usize, kc: usize, cols: Range<usize>, to: &mut [f32]) {
    let nr = kernels.nr;
    for (j, panel) in cols.clone().step_by(nr).zip(to.chunks_exact_mut(kc.max(1) * nr)) {
        let width = nr.min(cols.end - j);
        if !p.b_by_k {
            // SAFETY: rows j..j + width of B hold kc floats from k0 on; the panel holds kc nr floats.
            unsafe { (kernels.transpose)(p.b.as_ptr().add(j * p.k + k0), p.k, width, kc, panel.as_mut_ptr()) };
            continue;
        }
        for (q, to) in panel.chunks_exact_mut(nr).take(kc).enumerate() {
            to[..width].copy_from_slice(&p.b[(k0 + q) * p.n + j..][..width]);
            to[width..].fill(0.0);
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
