//! Packing: the operands in the order in which a microkernel reads them.

use super::ahead::Place;
use super::{A_STRIDE, Factor, KC, Kernels, NC, Packs, Product};
use crate::device::cpu::float::Float;
use crate::device::cpu::rooms::Room;
use std::ops::Range;

/// Rows of the tallest tile of any instruction set.
pub(super) const MAX_MR: usize = 14;
/// Floats a step of a tile of A packed by steps, at most.
const MAX_STEP: usize = 16;
/// Columns of the widest.
pub(super) const MAX_NR: usize = 32;

/// Floats of [`Tiles`]: 1.75 MiB, which with what a task reads beside it is about a second-level cache.
const TILES: usize = 448 << 10;

/// Where a task packs.
pub(super) struct Scratch<'a> {
    /// One tile of A.
    pub a: *mut f32,
    /// The panels of one block of B, the last of them in floats while it is made pairs.
    pub b: *mut f32,
    /// The tiles of some rows of A.
    pub tiles: &'a mut [f32],
}

impl Scratch<'_> {
    pub(super) fn new(room: &mut Room) -> Scratch<'_> {
        let mut parts = room.parts();
        let [a, b] = [MAX_STEP * A_STRIDE, (NC + MAX_NR) * KC].map(|len| parts.floats(len).as_mut_ptr());
        Scratch { a, b, tiles: parts.floats(TILES) }
    }
}

/// Steps `k0..k0 + kc` of `rows` of A as a microkernel reads them, and the floats from row to row: in place where
/// possible, else packed into `to`, `[mr, A_STRIDE]` or, for A stored `[K, M]`, by steps.
///
/// # Safety
/// The range is inside A, of at most `mr` rows and `KC` elements of each; `to` is the A of a [`Scratch`].
pub(super) unsafe fn pack_a(
    p: &Product,
    kernels: &Kernels,
    k0: usize,
    kc: usize,
    rows: Range<usize>,
    to: *mut f32,
) -> (*const f32, usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match p.a {
            Factor::F32(a) => pack_rows(p, kernels, &kernels.f32, a.as_ptr(), k0, kc, rows, to),
            Factor::Bf16(a) => pack_rows(p, kernels, &kernels.bf16, a.as_ptr(), k0, kc, rows, to),
        }
    }
}

/// # Safety
/// As [`pack_a`], A being `a`.
unsafe fn pack_rows<T>(
    p: &Product,
    kernels: &Kernels,
    packs: &Packs<T>,
    a: *const T,
    k0: usize,
    kc: usize,
    rows: Range<usize>,
    to: *mut f32,
) -> (*const f32, usize) {
    // SAFETY: inside A, and inside `to`, which holds MAX_STEP A_STRIDE elements: by steps, and mr A_STRIDE of them by rows.
    unsafe {
        if p.a_by_k {
            (packs.copy_a)(a.add(k0 * p.lda + rows.start), p.lda, rows.len(), kc, to);
            return (to, 0);
        }
        let from = a.add(rows.start * p.lda + k0);
        // Rows a multiple of 4 KiB apart share their cache sets, of 8 or 12 lines each.
        if packs.in_place
            && (p.lda | p.k).is_multiple_of(kernels.steps)
            && !(p.lda * size_of::<T>()).is_multiple_of(4096)
        {
            return (from.cast(), p.lda / kernels.steps);
        }
        for i in 0..rows.len() {
            (packs.row)(from.add(i * p.lda), kc, to.add(i * A_STRIDE));
        }
        (to, A_STRIDE)
    }
}

/// The tiles of some rows of an A stored `[K, M]`, packed.
pub(super) struct Tiles<'a> {
    packed: &'a [f32],
    /// Floats of a tile.
    len: usize,
}

impl<'a> Tiles<'a> {
    /// How many there is room for.
    pub(super) fn most(kernels: &Kernels) -> usize {
        TILES / (KC * kernels.step)
    }

    /// Steps `k0..k0 + kc` of `rows`, tile by tile.
    pub(super) fn of(
        p: &Product,
        kernels: &Kernels,
        k0: usize,
        kc: usize,
        rows: &Range<usize>,
        room: &'a mut [f32],
    ) -> Tiles<'a> {
        let place = Place::new(k0, kc, rows.clone(), 0..0, kernels);
        let len = kernels.elements(kc) * kernels.step;
        for t in 0..place.tiles {
            // SAFETY: inside A, at most mr rows; a tile by steps is `elements(kc) step` floats.
            unsafe { pack_a(p, kernels, k0, kc, place.tile(t), room[t * len..][..len].as_mut_ptr()) };
        }
        Tiles { packed: room, len }
    }

    /// A tile as [`pack_a`] tells it.
    pub(super) fn tile(&self, t: usize) -> (*const f32, usize) {
        (self.packed[t * self.len..].as_ptr(), 0)
    }
}

/// Packs `cols` of B over `k0..k0 + kc` into panels `[elements(kc), nr]`, the last one filled up with zeros.
///
/// # Safety
/// The range is inside B; its panels are at most `NC KC` elements; `to` is the B of a [`Scratch`].
pub(super) unsafe fn pack_b(p: &Product, kernels: &Kernels, k0: usize, kc: usize, cols: Range<usize>, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        match p.b {
            Factor::F32(b) => pack_panels(p, kernels, &kernels.f32, b.as_ptr(), k0, kc, cols, to),
            Factor::Bf16(b) => pack_panels(p, kernels, &kernels.bf16, b.as_ptr(), k0, kc, cols, to),
        }
    }
}

/// # Safety
/// As [`pack_b`], B being `b`.
unsafe fn pack_panels<T>(
    p: &Product,
    kernels: &Kernels,
    packs: &Packs<T>,
    b: *const T,
    k0: usize,
    kc: usize,
    cols: Range<usize>,
    to: *mut f32,
) {
    for j in cols.clone().step_by(kernels.nr) {
        let width = kernels.nr.min(cols.end - j);
        // SAFETY: B holds `width` columns from j on, over kc steps from k0 on; `to` holds the
        // elements of all their panels, and kc nr floats from the last panel on.
        unsafe {
            let panel = to.add((j - cols.start) * kernels.elements(kc));
            if p.b_by_k {
                (packs.copy_b)(b.add(k0 * p.n + j), p.n, width, kc, panel);
            } else {
                (packs.transpose)(b.add(j * p.k + k0), p.k, width, kc, panel);
            }
        }
    }
}

/// `to [kc, W]` from `kc` rows of `width <= W` numbers, `ld` apart; zeros in other columns.
///
/// # Safety
/// `from` and `to` hold that many.
#[inline]
pub(super) unsafe fn copy<T: Float, const W: usize>(from: *const T, ld: usize, width: usize, kc: usize, to: *mut f32) {
    for q in 0..kc {
        // SAFETY: row q < kc of both, as promised.
        unsafe {
            let (from, to) = (from.add(q * ld), to.add(q * W));
            if width == W {
                to.cast::<[f32; W]>().write_unaligned(from.cast::<[T; W]>().read_unaligned().map(T::wide));
            } else {
                (0..width).for_each(|j| to.add(j).write((*from.add(j)).wide()));
                to.add(width).write_bytes(0, W - width);
            }
        }
    }
}

/// `kc` numbers of a row.
///
/// # Safety
/// Both hold that many.
pub(super) unsafe fn row<T: Float>(from: *const T, kc: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { (0..kc).for_each(|q| to.add(q).write((*from.add(q)).wide())) }
}

/// `panel [kc, nr]` from `width <= nr` rows of `b`, `ld` numbers apart, element by element; zeros in other columns.
///
/// # Safety
/// `b` holds `width` rows of `kc` numbers, `ld` apart; `panel` holds `kc nr` floats.
#[inline(always)]
pub(super) unsafe fn transpose<T: Float>(b: *const T, ld: usize, width: usize, kc: usize, panel: *mut f32, nr: usize) {
    for q in 0..kc {
        for j in 0..nr {
            // SAFETY: j < width and q < kc, as promised.
            unsafe { *panel.add(q * nr + j) = if j < width { (*b.add(j * ld + q)).wide() } else { 0.0 } };
        }
    }
}

/// The same to 32 columns.
///
/// # Safety
/// As there.
pub(super) unsafe fn transpose_32<T: Float>(b: *const T, ld: usize, width: usize, kc: usize, panel: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { transpose(b, ld, width, kc, panel, 32) }
}
