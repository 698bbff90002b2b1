//! Numbers that ops store: f32, and at medium precision bf16 where only products will read them.

use crate::device::Element;
use half::bf16;

/// A number an op computes in f32 and stores.
pub(crate) trait Float: Element + Send + Sync {
    /// The nearest.
    fn of(x: f32) -> Self;
    /// The same in f32, exactly.
    fn wide(self) -> f32;
}

impl Float for f32 {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
}

/// Rounded to nearest, ties to even; below 2^-126 it is zero, as for the CPU's products of pairs.
impl Float for bf16 {
    #[inline(always)]
    fn of(x: f32) -> bf16 {
        let bits = if x.abs() < f32::MIN_POSITIVE { 0 } else { x.to_bits() };
        let nearest = (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16;
        bf16::from_bits(if x.is_nan() { 0x7FC0 } else { nearest })
    }
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_as_bf16_does() {
        for i in 0..1 << 16 {
            for low in [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
                let x = f32::from_bits(i << 16 | low);
                let want = if x.abs() < f32::MIN_POSITIVE { 0.0 } else { bf16::from_f32(x).to_f32() };
                let got = bf16::of(x).wide();
                assert!(got == want || x.is_nan() && got.is_nan(), "{x:e}: {got:e}, not {want:e}");
            }
        }
    }
}
