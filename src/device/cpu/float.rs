//! Numbers that ops store: f32, and at medium precision bf16 where only products will read them.

use crate::device::Element;
use half::bf16;

/// A number an op computes in f32 and stores.
pub(crate) trait Float: Element + Send + Sync {
    /// The nearest.
    fn of(x: f32) -> Self;
    /// The same in f32, exactly.
    fn wide(self) -> f32;
    /// Where the floats for `to` are computed before [`Float::put`] rounds them: in `to` itself, or in the block.
    fn room<'a>(to: &'a mut [Self], block: &'a mut [f32; BLOCK]) -> &'a mut [f32];
    /// Rounds what was computed in the block into `to`; floats are there already.
    fn put(narrow: Narrow, block: &[f32], to: &mut [Self]);
}

/// Floats to as many bf16, by an instruction where there is one: `(from, n, to)`.
pub(crate) type Narrow = Option<unsafe fn(*const f32, usize, *mut f32)>;

/// Floats that are computed before they are rounded together.
pub(crate) const BLOCK: usize = 256;

impl Float for f32 {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
    #[inline(always)]
    fn room<'a>(to: &'a mut [f32], _: &'a mut [f32; BLOCK]) -> &'a mut [f32] {
        to
    }
    #[inline(always)]
    fn put(_: Narrow, _: &[f32], _: &mut [f32]) {}
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
    #[inline(always)]
    fn room<'a>(to: &'a mut [bf16], block: &'a mut [f32; BLOCK]) -> &'a mut [f32] {
        &mut block[..to.len()]
    }
    #[inline(always)]
    fn put(narrow: Narrow, block: &[f32], to: &mut [bf16]) {
        let from = &block[..to.len()];
        match narrow {
            // Whole pairs: an odd one would be written with its neighbour.
            // SAFETY: both hold as many, and the CPU has the instruction.
            Some(narrow) if from.len().is_multiple_of(2) => unsafe {
                narrow(from.as_ptr(), from.len(), to.as_mut_ptr().cast())
            },
            _ => to.iter_mut().zip(from).for_each(|(to, x)| *to = bf16::of(*x)),
        }
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
