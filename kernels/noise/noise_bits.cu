// noise_bits      64 random bits a counter, first, first + 1, ...
//
// Shapes          bits [N] u64
// Numerics        integers: the bits of src/noise.rs.
// Parallel        one thread a number.
// Cost            writes 8N bytes; 10 rounds of two 32-bit multiplications a number.
// Determinism     a number is a function of (seed, stream, counter) alone.
// Source          Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10).
// Oracle          src/noise.rs
#include "common/philox.cuh"

extern "C" __global__ void __launch_bounds__(256)
    noise_bits(uint64_t* bits, int64_t n, uint64_t seed, uint64_t stream, uint64_t first) {
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i < n) bits[i] = noise_bits(seed, stream, first + (uint64_t)i);
}
