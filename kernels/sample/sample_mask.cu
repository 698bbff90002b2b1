// sample_mask     the logits of ids that may not come next become -inf
//
// Shapes          allowed [N, W] i32, W = ceil(V / 32): bit id % 32 of word id / 32 is 1 where the id may come
//                 logits [N, V] f32, in place
// Numerics        a copy, or -inf: what is sampled next is scored under what may come alone.
// Parallel        one thread an element.
// Cost            reads NV/8 + 4NV bytes, writes 4NV at most. Memory bound.
// Sass sm_90a     sample: PREEXIT ACQBULK
// Determinism     an element's bits depend on its logit and its bit alone.
// Source          Willard and Louf 2023, arXiv:2307.09702, section 2.
// Oracle          src/ops/sample/oracle.rs
#include "common/dependent.cuh"

extern "C" __global__ void __launch_bounds__(256)
    sample_mask(const int32_t* __restrict__ allowed,  // [N, W]
                float* __restrict__ logits,           // [N, V]
                int64_t len, int32_t vocab, int32_t words) {
    await_predecessors();
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= len) return;
    int64_t row = i / vocab;
    int id = (int)(i % vocab);
    uint32_t word = (uint32_t)allowed[row * words + id / 32];
    if ((word >> (id % 32) & 1u) == 0) logits[i] = -INFINITY;
}
