// linear_logprob_mask    raw logits of the tokens that a row may not take, where they count for nothing
//
// Between the product and linear_logprob_spans or linear_logprob_bwd, of calls that have masks alone.
//
// Shapes          z [R, W] f32, raw logits of R rows and the W tokens from `first` on, in place
//                 allowed [U, words] i32, words = ceil(V / 32): bit v % 32 of word v / 32 is 1 where token v may come
//                 of [R] i32, the mask of each row, -1 for a row without one
// Numerics        a copy, or `low`, which scaled is about -2^100. Its exp is 0, and so is 0 times its distance: maxima and sums
//                 have the bits that -inf gives them in sample, and entropy and gradients no NaN.
// Parallel        one thread four tokens; blocks of 1024 tokens of one row. Rows without a mask end at once.
// Cost            reads RW / 8 bytes, writes 4RW at most, in L2.
// Determinism     an element's bits depend on its logit and its bit alone.
// Requires        first % 32 == 0.
// Source          Willard and Louf 2023, arXiv:2307.09702, section 2.
// Oracle          src/ops/logprob/oracle.rs
#include "common/types.cuh"

constexpr int PER_THREAD = 4;

extern "C" __global__ void __launch_bounds__(256)
    linear_logprob_mask(const int32_t* __restrict__ allowed,  // [U, words]
                        const int32_t* __restrict__ of,       // [R]
                        float* z,                             // [R, W]
                        int32_t width, int32_t first, int32_t words, float low) {
    int64_t row = blockIdx.x;
    int32_t mask = of[row];
    if (mask < 0) return;
    const int32_t* may = allowed + (int64_t)mask * words + first / 32;
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++) {
        int32_t v = (int32_t)blockIdx.y * 256 * PER_THREAD + e * 256 + (int32_t)threadIdx.x;
        if (v >= width) return;
        if (((uint32_t)may[v / 32] >> (v % 32) & 1u) == 0) z[row * width + v] = low;
    }
}
