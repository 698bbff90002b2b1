//! Packed floats rounded to bf16, for products at [`crate::device::Precision::Medium`].
//!
//! Each factor is rounded to the nearest bf16, ties to even, and products are summed in f32: the same chain of fused
//! multiply-adds over ascending K as in f32, of other factors. A product of two bf16 is exact in f32, so where the CPU
//! multiplies pairs (`avx512_bf16`) the bits are those of the chain; but it takes numbers below 2^-126 for zeros, sums
//! too. Here factors below it are zeros as well.

/// How packed floats become what a tile reads.
pub(crate) struct Narrow {
    /// Steps of K that one element then holds.
    pub steps: usize,
    /// `[kc, width]` floats, in place.
    pub steps_of: unsafe fn(*mut f32, usize, usize),
    /// `kc` floats of one row, to another place.
    pub row: unsafe fn(*const f32, usize, *mut f32),
}

/// Rounded floats that stay floats: for any instruction set, and no faster than f32.
pub(super) static ROUND: Narrow = Narrow { steps: 1, steps_of: round_steps, row: round_row };

/// The nearest bf16, as a float.
#[inline(always)]
fn round(x: f32) -> f32 {
    if x.is_nan() {
        return f32::NAN;
    }
    let bits = if x.abs() < f32::MIN_POSITIVE { 0 } else { x.to_bits() };
    f32::from_bits((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000)
}

/// # Safety
/// `x` holds `width kc` floats.
unsafe fn round_steps(x: *mut f32, width: usize, kc: usize) {
    // SAFETY: the caller's promise.
    let x = unsafe { std::slice::from_raw_parts_mut(x, width * kc) };
    x.iter_mut().for_each(|x| *x = round(*x));
}

/// # Safety
/// Both hold `kc` floats, and do not overlap.
unsafe fn round_row(from: *const f32, kc: usize, to: *mut f32) {
    for q in 0..kc {
        // SAFETY: the caller's promise.
        unsafe { to.add(q).write(round(from.add(q).read())) };
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
