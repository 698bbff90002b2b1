//! Small matrix products inside one task: the tiles of attention.
//!
//! Each element of C is one chain of fused multiply-adds over ascending q, from zero or from what stands in C: the
//! same bits for any number of rows, any split of the chain into calls, any instruction set.

use super::math::Isa;

/// `c = a b`, or `c += a b` when `load`: `rows` x `n` elements, chains of length `k`.
/// Arguments: a, a_row, a_step, b, ldb, c, ldc, rows, n, k, load. Element (i, q) of A stands at
/// `a + i a_row + q a_step`, rows of B and C are `ldb` and `ldc` apart.
///
/// # Safety
/// All these elements lie in memory that is valid to read (C: and to write, by this thread alone).
pub type Mm = unsafe fn(*const f32, usize, usize, *const f32, usize, *mut f32, usize, usize, usize, usize, bool);

/// The product for an instruction set this machine has.
pub fn mm(isa: Isa) -> Mm {
    match isa.or_less() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::mm_avx512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::mm_avx2,
        _ => mm_portable,
    }
}

/// One register of floats.
trait Lanes: Copy {
    /// Number of floats.
    const W: usize;
    /// Rows of a block: twice as many accumulators must fit the registers.
    const MR: usize;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn fma(self, b: Self, c: Self) -> Self;
}

impl Lanes for [f32; 4] {
    const W: usize = 4;
    const MR: usize = 4;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: four floats are readable, says the caller.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: four floats are writable, says the caller.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        std::array::from_fn(
            #[inline(always)]
            |i| self[i].mul_add(b[i], c[i]),
        )
    }
}

#[rustfmt::skip]
unsafe fn mm_portable(
    a: *const f32, a_row: usize, a_step: usize, b: *const f32, ldb: usize,
    c: *mut f32, ldc: usize, rows: usize, n: usize, k: usize, load: bool,
) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<[f32; 4]>(a, a_row, a_step, b, ldb, c, ldc, rows, n, k, load) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, blocks};
    use std::arch::x86_64::*;

    impl Lanes for __m512 {
        const W: usize = 16;
        const MR: usize = 8;
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: sixteen floats are readable and the machine has AVX-512, says the caller.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, writable.
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the machine has AVX-512.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: the machine has AVX-512.
            unsafe { _mm512_fmadd_ps(self, b, c) }
        }
    }

    impl Lanes for __m256 {
        const W: usize = 8;
        const MR: usize = 4;
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: eight floats are readable and the machine has AVX2, says the caller.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, writable.
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the machine has AVX2.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: the machine has FMA.
            unsafe { _mm256_fmadd_ps(self, b, c) }
        }
    }

    #[rustfmt::skip]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub unsafe fn mm_avx512(
        a: *const f32, a_row: usize, a_step: usize, b: *const f32, ldb: usize,
        c: *mut f32, ldc: usize, rows: usize, n: usize, k: usize, load: bool,
    ) {
        // SAFETY: the caller's promise.
        unsafe { blocks::<__m512>(a, a_row, a_step, b, ldb, c, ldc, rows, n, k, load) }
    }

    #[rustfmt::skip]
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn mm_avx2(
        a: *const f32, a_row: usize, a_step: usize, b: *const f32, ldb: usize,
        c: *mut f32, ldc: usize, rows: usize, n: usize, k: usize, load: bool,
    ) {
        // SAFETY: the caller's promise.
        unsafe { blocks::<__m256>(a, a_row, a_step, b, ldb, c, ldc, rows, n, k, load) }
    }
}

#[rustfmt::skip]
#[inline(always)]
unsafe fn blocks<V: Lanes>(
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
                1 => block::<V, 1>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                2 => block::<V, 2>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                3 => block::<V, 3>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                4 => block::<V, 4>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                5 => block::<V, 5>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                6 => block::<V, 6>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                7 => block::<V, 7>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
                _ => block::<V, 8>(a, a_row, a_step, b, ldb, c, ldc, n, k, load),
            }
        }
        i += r;
    }
}

/// R rows: two registers wide, then one, then one element.
#[rustfmt::skip]
#[inline(always)]
unsafe fn block<V: Lanes, const R: usize>(
    a: *const f32, a_row: usize, a_step: usize, b: *const f32, ldb: usize,
    c: *mut f32, ldc: usize, n: usize, k: usize, load: bool,
) {
    let mut j = 0;
    // SAFETY: columns below n, rows below R, steps below k are inside, as the caller promises.
    unsafe {
        while j + 2 * V::W <= n {
            columns::<V, R, 2>(a, a_row, a_step, b.add(j), ldb, c.add(j), ldc, k, load);
            j += 2 * V::W;
        }
        if j + V::W <= n {
            columns::<V, R, 1>(a, a_row, a_step, b.add(j), ldb, c.add(j), ldc, k, load);
            j += V::W;
        }
        while j < n {
            for i in 0..R {
                let start = if load { *c.add(i * ldc + j) } else { 0.0 };
                *c.add(i * ldc + j) = (0..k).fold(start, #[inline(always)] |s, q| {
                    (*a.add(i * a_row + q * a_step)).mul_add(*b.add(q * ldb + j), s)
                });
            }
            j += 1;
        }
    }
}

#[rustfmt::skip]
#[inline(always)]
unsafe fn columns<V: Lanes, const R: usize, const U: usize>(
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
                    acc[i][u] = y.fma(x[u], acc[i][u]);
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

    #[test]
    fn every_instruction_set_gives_the_chain() {
        for (rows, n, k) in [(1, 1, 1), (8, 32, 32), (13, 45, 7), (3, 16, 0), (32, 9, 33), (5, 70, 12)] {
            let a: Vec<f32> = (0..rows * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 31.0).collect();
            let b: Vec<f32> = (0..k * n).map(|i| ((i * 53 % 97) as f32 - 48.0) / 29.0).collect();
            for load in [false, true] {
                let start: Vec<f32> = (0..rows * n).map(|i| if load { i as f32 / 7.0 } else { f32::NAN }).collect();
                let mut want = start.clone();
                for i in 0..rows * n {
                    let from = if load { want[i] } else { 0.0 };
                    want[i] = (0..k).fold(from, |s, q| a[i / n + q * rows].mul_add(b[q * n + i % n], s));
                }
                for isa in [Isa::Avx512, Isa::Avx2, Isa::Portable] {
                    let mut got = start.clone();
                    // SAFETY: a is [k, rows] read by columns, b [k, n], c [rows, n].
                    unsafe { mm(isa)(a.as_ptr(), 1, rows, b.as_ptr(), n, got.as_mut_ptr(), n, rows, n, k, load) };
                    assert_eq!(got, want, "{isa:?} {rows} {n} {k} {load}");
                }
            }
        }
    }
}
