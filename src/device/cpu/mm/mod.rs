//! Small matrix products inside one task: the tiles of attention.
//!
//! Each sum of C is one chain of fused multiply-adds over ascending q, from zero or from what stands in C: the same bits
//! for any number of rows, any split of the chain into calls, any instruction set. An element of A and B is a float, or
//! a pair of bf16, two steps in 32 bits as bf16 lie in memory: the even step in the lower half. A pair's odd step comes
//! first, because that is how the CPU's own instruction adds (`gemm::avx512_bf16`); where there is none, its halves are
//! widened to floats.

mod lanes;

use super::math::Isa;
use lanes::{Element, Float, Lanes, Pair};

/// `c = a b`, or `c += a b` when `load`: `rows` x `n` sums over `k` elements.
/// Arguments: a, a_row, a_step, b, ldb, c, ldc, rows, n, k, load. Element (i, q) of A stands at
/// `a + i a_row + q a_step`, rows of B and C are `ldb` and `ldc` apart.
///
/// # Safety
/// All these elements lie in memory that is valid to read (C: and to write, by this thread alone).
pub type Mm = unsafe fn(*const f32, usize, usize, *const f32, usize, *mut f32, usize, usize, usize, usize, bool);

/// The product of floats for an instruction set this machine has.
pub fn mm(isa: Isa) -> Mm {
    match isa.or_less() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::floats_avx512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::floats_avx2,
        _ => floats_portable,
    }
}

/// The product of pairs of bf16.
pub fn mm_pairs(isa: Isa) -> Mm {
    match isa.or_less() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if is_x86_feature_detected!("avx512bf16") => x86::pairs_avx512_bf16,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::pairs_avx512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::pairs_avx2,
        _ => pairs_portable,
    }
}

/// An [`Mm`]: its name, lanes, element, target features.
macro_rules! product {
    ($name:ident, $lanes:ty, $element:ty $(, $features:literal)?) => {
        #[rustfmt::skip]
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $name(
            a: *const f32, a_row: usize, a_step: usize, b: *const f32, ldb: usize,
            c: *mut f32, ldc: usize, rows: usize, n: usize, k: usize, load: bool,
        ) {
            // SAFETY: the caller's promise.
            unsafe { blocks::<$lanes, $element>(a, a_row, a_step, b, ldb, c, ldc, rows, n, k, load) }
        }
    };
}

product!(floats_portable, [f32; 4], Float);
product!(pairs_portable, [f32; 4], Pair);

// Below the macro, which it uses.
#[cfg(target_arch = "x86_64")]
mod x86;

#[rustfmt::skip]
#[inline(always)]
unsafe fn blocks<V: Lanes, E: Element<V>>(
    a: *const f32, a_row: usize, a_step: usize, b: *const f32, ldb: usize,
    c: *mut f32, ldc: usize, rows: usize, n: usize, k: usize, load: bool,
) {
    let mut i = 0;
    while i < rows {
        let r = V::MR.min(rows - i);
        // SAFETY: rows i..i + r are inside, as the caller promises.
        unsafe {
            let (a, c) = (a.add(i * a_row), c.add(i * ldc));
            match r {
                1 => block::<V, E, 1>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                2 => block::<V, E, 2>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                3 => block::<V, E, 3>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                4 => block::<V, E, 4>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                5 => block::<V, E, 5>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                6 => block::<V, E, 6>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                7 => block::<V, E, 7>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                _ => block::<V, E, 8>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
            }
        }
        i += r;
    }
}

/// R rows: two registers wide, then one, then one element.
#[rustfmt::skip]
#[inline(always)]
unsafe fn block<V: Lanes, E: Element<V>, const R: usize>(
    a: *const f32, a_row: usize, a_step: usize, b: *const f32, ldb: usize,
    c: *mut f32, ldc: usize, n: usize, k: usize, load: bool,
) {
    let mut j = 0;
    // SAFETY: columns below n, rows below R, steps below k are inside, as the caller promises.
    unsafe {
        while j + 2 * V::W <= n {
            columns::<V, E, R, 2>(a, a_row, a_step, b.add(j), ldb, c.add(j), ldc, k, load);
            j += 2 * V::W;
        }
        if j + V::W <= n {
            columns::<V, E, R, 1>(a, a_row, a_step, b.add(j), ldb, c.add(j), ldc, k, load);
            j += V::W;
        }
        while j < n {
            for i in 0..R {
                let start = if load { *c.add(i * ldc + j) } else { 0.0 };
                *c.add(i * ldc + j) = (0..k).fold(start, #[inline(always)] |s, q| {
                    E::add_one(*a.add(i * a_row + q * a_step), *b.add(q * ldb + j), s)
                });
            }
            j += 1;
        }
    }
}

#[rustfmt::skip]
#[inline(always)]
unsafe fn columns<V: Lanes, E: Element<V>, const R: usize, const U: usize>(
    a: *const f32, a_row: usize, a_step: usize, b: *const f32, ldb: usize,
    c: *mut f32, ldc: usize, k: usize, load: bool,
) {
    // SAFETY: U registers of columns, R rows, k steps are inside, as the caller promises.
    unsafe {
        let mut acc = [[V::splat(0.0); U]; R];
        if load {
            for i in 0..R {
                for u in 0..U {
                    acc[i][u] = V::load(c.add(i * ldc + u * V::W));
                }
            }
        }
        for q in 0..k {
            let mut x = [V::splat(0.0); U];
            for u in 0..U {
                x[u] = V::load(b.add(q * ldb + u * V::W));
            }
            for i in 0..R {
                let y = V::splat(*a.add(i * a_row + q * a_step));
                for u in 0..U {
                    acc[i][u] = E::add(y, x[u], acc[i][u]);
                }
            }
        }
        for i in 0..R {
            for u in 0..U {
                acc[i][u].store(c.add(i * ldc + u * V::W));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `how` on every instruction set, of elements made by `element`, against chains of `add`.
    fn check(how: fn(Isa) -> Mm, element: fn(usize) -> f32, add: fn(f32, f32, f32) -> f32) {
        for (rows, n, k) in [(1, 1, 1), (8, 32, 32), (13, 45, 7), (3, 16, 0), (32, 9, 33), (5, 70, 12)] {
            let a: Vec<f32> = (0..rows * k).map(|i| element(i * 37)).collect();
            let b: Vec<f32> = (0..k * n).map(|i| element(i * 53 + 11)).collect();
            for load in [false, true] {
                let start: Vec<f32> = (0..rows * n).map(|i| if load { i as f32 / 7.0 } else { f32::NAN }).collect();
                let mut want = start.clone();
                for i in 0..rows * n {
                    let from = if load { want[i] } else { 0.0 };
                    want[i] = (0..k).fold(from, |s, q| add(a[i / n + q * rows], b[q * n + i % n], s));
                }
                for isa in [Isa::Avx512, Isa::Avx2, Isa::Portable] {
                    let mut got = start.clone();
                    // SAFETY: a is [k, rows] read by columns, b [k, n], c [rows, n].
                    unsafe { how(isa)(a.as_ptr(), 1, rows, b.as_ptr(), n, got.as_mut_ptr(), n, rows, n, k, load) };
                    assert_eq!(got, want, "{isa:?} {rows} {n} {k} {load}");
                }
            }
        }
    }

    fn float(i: usize) -> f32 {
        ((i % 101) as f32 - 50.0) / 31.0
    }

    #[test]
    fn every_instruction_set_gives_the_chain() {
        check(mm, float, |a, b, sum| a.mul_add(b, sum));
    }

    #[test]
    fn of_a_pair_the_odd_step_comes_first() {
        fn pair(i: usize) -> f32 {
            let bits = |i: usize| half::bf16::from_f32(float(i)).to_bits() as u32;
            f32::from_bits(bits(3 * i + 1) << 16 | bits(i))
        }
        fn step(pair: f32, odd: u32) -> f32 {
            half::bf16::from_bits((pair.to_bits() >> (16 * odd)) as u16).to_f32()
        }
        fn add(a: f32, b: f32, sum: f32) -> f32 {
            let odd = step(a, 1).mul_add(step(b, 1), sum);
            step(a, 0).mul_add(step(b, 0), odd)
        }
        check(mm_pairs, pair, add);
        // What a machine with AVX-512 and without pairs would take.
        #[cfg(target_arch = "x86_64")]
        if Isa::detect() == Isa::Avx512 {
            check(|_| x86::pairs_avx512, pair, add);
        }
    }
}
