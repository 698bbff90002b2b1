//! Packed floats rounded to bf16, for products at [`crate::device::Precision::Medium`].
//!
//! Each factor is rounded to the nearest bf16, ties to even, and products are summed in f32, a chain of fused
//! multiply-adds over K as in f32. A product of two bf16 is exact in f32, so where the CPU multiplies pairs
//! (`avx512_bf16`) the bits are those of a chain too: over ascending pairs of steps of K, in a pair the odd step first.
//! Here the steps of each pair are packed in that order. The CPU's pairs take numbers below 2^-126 for zeros, sums too;
//! here factors below it are zeros as well.

use super::{Kernels, Set};
use std::marker::PhantomData;

/// The kernels of `S` on rounded floats that stay floats: for any instruction set, and no faster than f32.
pub(super) struct Rounded<S>(PhantomData<S>);

impl<S: Set> Set for Rounded<S> {
    const KERNELS: Kernels = Kernels {
        transpose: transpose::<S>,
        copy_a: copy_a::<S>,
        copy_b: copy_b::<S>,
        row: Some(round_row),
        ..S::KERNELS
    };
}

/// The nearest bf16, as a float.
#[inline(always)]
fn round(x: f32) -> f32 {
    if x.is_nan() {
        return f32::NAN;
    }
    let bits = if x.abs() < f32::MIN_POSITIVE { 0 } else { x.to_bits() };
    f32::from_bits((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000)
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
unsafe fn transpose<S: Set>(b: *const f32, ld: usize, width: usize, kc: usize, panel: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        (S::KERNELS.transpose)(b, ld, width, kc, panel);
        round_all(panel, kc, S::KERNELS.nr);
    }
}

/// # Safety
/// As [`super::pack::copy`].
unsafe fn copy_a<S: Set>(from: *const f32, ld: usize, width: usize, kc: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        (S::KERNELS.copy_a)(from, ld, width, kc, to);
        round_all(to, kc, S::KERNELS.step);
    }
}

/// # Safety
/// As [`super::pack::copy`].
unsafe fn copy_b<S: Set>(from: *const f32, ld: usize, width: usize, kc: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        (S::KERNELS.copy_b)(from, ld, width, kc, to);
        round_all(to, kc, S::KERNELS.nr);
    }
}

/// # Safety
/// Both hold `kc` floats, and do not overlap.
unsafe fn round_row(from: *const f32, kc: usize, to: *mut f32) {
    for q in 0..kc {
        let at = if q | 1 < kc { q ^ 1 } else { q };
        // SAFETY: the caller's promise.
        unsafe { to.add(at).write(round(from.add(q).read())) };
    }
}

#[cfg(test)]
mod tests {
    use super::round;
    use half::bf16;

    #[test]
    fn rounds_as_bf16_does() {
        for i in 0..1 << 16 {
            for low in [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
                let x = f32::from_bits(i << 16 | low);
                let want = if x.abs() < f32::MIN_POSITIVE { 0.0 } else { bf16::from_f32(x).to_f32() };
                assert!(round(x) == want || x.is_nan() && round(x).is_nan(), "{x:e}: {:e}, not {want:e}", round(x));
            }
        }
    }
}
