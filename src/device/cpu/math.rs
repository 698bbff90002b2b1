//! The exponential, and the instruction set that vector code is compiled for.
//!
//! [`exp`] is plain arithmetic that LLVM vectorises: the same bits one at a time, eight or sixteen at a time, on
//! every instruction set, because every step is one correctly rounded operation and `mul_add` is always fused.
//! `mul_add` is one instruction only inside a function compiled with FMA: run loops through [`Isa::run`].

/// The instruction set of a machine's vectors. Results do not depend on it, only speed does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// 16 lanes and FMA: x86-64 with AVX-512 F, BW, DQ, VL.
    Avx512,
    /// 8 lanes and FMA: x86-64 with AVX2 and FMA.
    Avx2,
    /// What every machine of the target has: aarch64 with its fused multiply-add, or slow and right.
    Portable,
}

impl Isa {
    /// The widest of this machine.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
            {
                return Isa::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Isa::Avx2;
            }
        }
        Isa::Portable
    }

    /// `self` where this machine has it, else the widest it has.
    pub fn or_less(self) -> Isa {
        let most = Isa::detect();
        match (self, most) {
            (Isa::Avx512, _) => most,
            (Isa::Avx2, Isa::Portable) => Isa::Portable,
            _ => self,
        }
    }

    /// Calls `body` compiled for this instruction set, or for less where this machine has less.
    ///
    /// Write `isa.run(#[inline(always)] || loop)`, and mark every function the loop calls `#[inline(always)]` too:
    /// what is not inlined is compiled for the plain target.
    #[inline(always)]
    pub fn run<R>(self, body: impl FnOnce() -> R) -> R {
        match self.or_less() {
            // SAFETY: `or_less` returns only what this machine has.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { run_avx512(body) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { run_avx2(body) },
            _ => body(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn run_avx512<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<R>(body: impl FnOnce() -> R) -> R {
    body()
}

/// `e^x`, error below 1.1 ulp. Results under 2^-125.5 are 0, so no denormal ever slows a loop; NaN stays NaN.
///
/// `x = n ln 2 + r`, `|r| <= ln 2 / 2`; a polynomial of degree 6 gives `2 e^r` (coefficients: Cephes `expf`, doubled),
/// the exponent field of a float gives `2^(n - 1)`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Not f32::clamp: these two comparisons keep NaN and are one instruction each.
    let x = if x < -87.5 { -87.5 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let t = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = t - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 3.975_138_3e-4f32.mul_add(r, 2.796_399_9e-3);
    let p = p.mul_add(r, 1.666_690_4e-2);
    let p = p.mul_add(r, 8.333_159e-2);
    let p = p.mul_add(r, 3.333_333e-1);
    let p = p.mul_add(r, 1.0);
    let p = p.mul_add(r, 2.0);
    let p = p.mul_add(r, 2.0);
    p * f32::from_bits((t.to_bits() << 23).wrapping_add(126 << 23))
}

/// `ln x`, error below 1 ulp for normal x; `ln 0` is -inf, below 0 it is NaN. The bits of `log_f32` of the kernels.
///
/// `x = 2^e m`, m in `[sqrt(1/2), sqrt(2))`; a polynomial of degree 9 in m - 1 (Cephes `logf`).
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    if x.is_nan() || x <= 0.0 {
        return if x == 0.0 { f32::NEG_INFINITY } else { f32::NAN };
    }
    if x == f32::INFINITY {
        return x;
    }
    // A subnormal goes into the normal range first.
    let (x, e) = if x < f32::MIN_POSITIVE { (x * 8_388_608.0, -23.0) } else { (x, 0.0) };
    const SQRT_HALF: u32 = 0x3f35_04f3;
    let above = x.to_bits().wrapping_sub(SQRT_HALF);
    let e = e + (above as i32 >> 23) as f32;
    let f = f32::from_bits((above & 0x007f_ffff) + SQRT_HALF) - 1.0;
    let z = f * f;
    let p = 7.037_683_6e-2f32.mul_add(f, -1.151_461e-1);
    let p = p.mul_add(f, 1.167_699_87e-1);
    let p = p.mul_add(f, -1.242_014_1e-1);
    let p = p.mul_add(f, 1.424_932_3e-1);
    let p = p.mul_add(f, -1.666_805_8e-1);
    let p = p.mul_add(f, 2.000_071_5e-1);
    let p = p.mul_add(f, -2.499_999_4e-1);
    let p = p.mul_add(f, 3.333_333e-1);
    let p = p * f * z;
    let p = e.mul_add(-2.121_944_4e-4, p);
    let p = z.mul_add(-0.5, p);
    e.mul_add(0.693_359_4, f + p)
}

/// Asks for the cache lines of `x`: memory that will be read soon, and that no stream of reads leads to. One line a
/// turn of a plain loop: in an unrolled one requests come faster than they are taken, and most are dropped.
#[inline(always)]
pub fn prefetch(x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in x.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_stated_error_everywhere() {
        let mut worst = 0f64;
        // Every 97th float of [2^-30, 89] and of [-87, -2^-30].
        for bits in (0x3080_0000u32..0x42b2_0000).step_by(97) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                let want = (x as f64).exp();
                if !(-86.9..88.722).contains(&x) {
                    continue;
                }
                let ulp = (want as f32).to_bits();
                let ulp = f32::from_bits(ulp + 1) as f64 - f32::from_bits(ulp) as f64;
                worst = worst.max((exp(x) as f64 - want).abs() / ulp);
            }
        }
        assert!(worst < 1.1, "worst error {worst} ulp");
    }

    #[test]
    fn ln_is_within_its_stated_error_everywhere() {
        let mut worst = 0f64;
        for bits in (1u32..0x7f80_0000).step_by(4099) {
            let x = f32::from_bits(bits);
            let want = (x as f64).ln();
            let ulp = (want.abs() as f32).to_bits();
            let ulp = f32::from_bits(ulp + 1) as f64 - f32::from_bits(ulp) as f64;
            worst = worst.max((ln(x) as f64 - want).abs() / ulp);
        }
        assert!(worst < 1.0, "worst error {worst} ulp");
        assert_eq!((ln(1.0), ln(0.0), ln(f32::INFINITY)), (0.0, f32::NEG_INFINITY, f32::INFINITY));
        assert!(ln(-1.0).is_nan() && ln(f32::NAN).is_nan());
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-87.3), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(88.73), f32::INFINITY);
        assert!(exp(88.72).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exp_has_the_same_bits_on_every_instruction_set() {
        let x: Vec<f32> = (0..4099).map(|i| (i as f32 - 2000.0) * 0.0437).collect();
        let one: Vec<u32> = x.iter().map(|x| exp(*x).to_bits()).collect();
        for isa in [Isa::Avx512, Isa::Avx2, Isa::Portable] {
            let mut y = x.clone();
            isa.run(
                #[inline(always)]
                || {
                    y.iter_mut().for_each(
                        #[inline(always)]
                        |y| *y = exp(*y),
                    )
                },
            );
            assert_eq!(one, y.iter().map(|y| y.to_bits()).collect::<Vec<_>>(), "{isa:?}");
        }
    }
}
