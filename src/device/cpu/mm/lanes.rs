//! What a product is written with: registers of floats, and what a pair of elements adds to a sum. The registers here
//! are arrays of four, for every machine.

/// One register of floats.
pub(super) trait Lanes: Copy {
    /// Number of floats.
    const W: usize;
    /// Rows of a block: twice as many accumulators must fit the registers.
    const MR: usize;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The floats of the even steps of pairs, and of the odd ones.
    unsafe fn halves(self) -> [Self; 2];
}

/// What an element adds to its sums.
pub(super) trait Element<V: Lanes> {
    unsafe fn add(a: V, b: V, c: V) -> V;
    /// The same to one sum.
    fn add_one(a: f32, b: f32, c: f32) -> f32;
}

/// An element is a float.
pub(super) struct Float;

impl<V: Lanes> Element<V> for Float {
    #[inline(always)]
    unsafe fn add(a: V, b: V, c: V) -> V {
        // SAFETY: the machine has these lanes, says the caller.
        unsafe { a.fma(b, c) }
    }
    #[inline(always)]
    fn add_one(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// An element is a pair of bf16.
pub(super) struct Pair;

impl<V: Lanes> Element<V> for Pair {
    #[inline(always)]
    unsafe fn add(a: V, b: V, c: V) -> V {
        // SAFETY: the machine has these lanes, says the caller.
        unsafe {
            let ([a_even, a_odd], [b_even, b_odd]) = (a.halves(), b.halves());
            a_even.fma(b_even, a_odd.fma(b_odd, c))
        }
    }
    #[inline(always)]
    fn add_one(a: f32, b: f32, c: f32) -> f32 {
        let ([a_even, a_odd], [b_even, b_odd]) = (halves(a), halves(b));
        a_even.mul_add(b_even, a_odd.mul_add(b_odd, c))
    }
}

/// The even step of a pair, and the odd one.
#[inline(always)]
fn halves(pair: f32) -> [f32; 2] {
    [f32::from_bits(pair.to_bits() << 16), f32::from_bits(pair.to_bits() & 0xFFFF_0000)]
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
    #[inline(always)]
    unsafe fn halves(self) -> [Self; 2] {
        let mut both = [[0.0; 4]; 2];
        for i in 0..4 {
            [both[0][i], both[1][i]] = halves(self[i]);
        }
        both
    }
}
