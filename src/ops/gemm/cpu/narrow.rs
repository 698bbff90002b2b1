//! Packed floats rounded to bf16, for products at [`crate::device::Precision::Medium`].
//!
//! Each factor is rounded to the nearest bf16, ties to even, and products are summed in f32, a chain of fused
//! multiply-adds over K as in f32. A product of two bf16 is exact in f32, so where the CPU multiplies pairs
//! (`avx512_bf16`) the bits are those of a chain too: over ascending pairs of steps of K, in a pair the odd step first.
//! Here the steps of each pair are packed in that order. The CPU's pairs take numbers below 2^-126 for zeros, sums too;
//! here factors below it are zeros as well.

use super::{Kernels, Packs, Set};
use crate::device::cpu::float::Float;
use half::bf16;
use std::marker::PhantomData;

/// The kernels of `S` on rounded floats that stay floats: for any instruction set, and no faster than f32.
pub(super) struct Rounded<S>(PhantomData<S>);

impl<S: Set> Set for Rounded<S> {
    const KERNELS: Kernels = Kernels { f32: packs::<S, f32>(), bf16: packs::<S, bf16>(), ..S::KERNELS };
}

const fn packs<S: Set, T: Packed>() -> Packs<T> {
    Packs { transpose: transpose::<S, T>, copy_a: copy_a::<S, T>, copy_b: copy_b::<S, T>, row, in_place: false }
}

/// A number, and how kernels pack it.
trait Packed: Float {
    fn packs(kernels: &Kernels) -> &Packs<Self>;
}

impl Packed for f32 {
    fn packs(kernels: &Kernels) -> &Packs<f32> {
        &kernels.f32
    }
}

impl Packed for bf16 {
    fn packs(kernels: &Kernels) -> &Packs<bf16> {
        &kernels.bf16
    }
}

/// The nearest bf16, as a float.
#[inline(always)]
fn round(x: f32) -> f32 {
    bf16::of(x).wide()
}

/// Rounds steps of `width` floats, and puts the odd one of each pair first.
///
/// # Safety
/// `x` holds `kc` steps.
unsafe fn round_all(x: *mut f32, kc: usize, width: usize) {
    // SAFETY: the caller's promise.
    let x = unsafe { std::slice::from_raw_parts_mut(x, kc * width) };
    x.iter_mut().for_each(|x| *x = round(*x));
    for pair in x.chunks_exact_mut(2 * width) {
        let (even, odd) = pair.split_at_mut(width);
        even.swap_with_slice(odd);
    }
}

/// # Safety
/// As [`super::pack::transpose`].
unsafe fn transpose<S: Set, T: Packed>(b: *const T, ld: usize, width: usize, kc: usize, panel: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        (T::packs(&S::KERNELS).transpose)(b, ld, width, kc, panel);
        round_all(panel, kc, S::KERNELS.nr);
    }
}

/// # Safety
/// As [`super::pack::copy`].
unsafe fn copy_a<S: Set, T: Packed>(from: *const T, ld: usize, width: usize, kc: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        (T::packs(&S::KERNELS).copy_a)(from, ld, width, kc, to);
        round_all(to, kc, S::KERNELS.step);
    }
}

/// # Safety
/// As [`super::pack::copy`].
unsafe fn copy_b<S: Set, T: Packed>(from: *const T, ld: usize, width: usize, kc: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        (T::packs(&S::KERNELS).copy_b)(from, ld, width, kc, to);
        round_all(to, kc, S::KERNELS.nr);
    }
}

/// # Safety
/// Both hold `kc` numbers, and do not overlap.
unsafe fn row<T: Float>(from: *const T, kc: usize, to: *mut f32) {
    for q in 0..kc {
        let at = if q | 1 < kc { q ^ 1 } else { q };
        // SAFETY: the caller's promise.
        unsafe { to.add(at).write(round((*from.add(q)).wide())) };
    }
}
