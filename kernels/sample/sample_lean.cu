// sample_lean     z = z + bias;  z = z > 0 ? z / repeat : z * repeat;  z = z - less, at the ids a row names
//
// Shapes          offsets [N + 1] i32, entries of row n from offsets[n] to offsets[n + 1]
//                 id [K] i32, distinct within a row   bias, repeat, less [K] f32   logits [N, V] f32, in place
// Numerics        f32, each step rounded.
// Parallel        one block a row, one thread an entry.
// Cost            reads 20K + 4N bytes, writes 4K. Bound by its launch.
// Sass sm_90a     sample: PREEXIT ACQBULK
// Determinism     an element's bits depend on its logit and its entry alone.
// Requires        ids in 0..V.
// Source          Keskar et al. 2019, arXiv:1909.05858, section 4.1 (repeat); bias and counts as servers have them.
// Oracle          src/ops/sample/oracle.rs
#include "common/dependent.cuh"

extern "C" __global__ void __launch_bounds__(128)
    sample_lean(const int32_t* __restrict__ offsets,  // [N + 1]
                const int32_t* __restrict__ id,       // [K]
                const float* __restrict__ bias,       // [K]
                const float* __restrict__ repeat,     // [K]
                const float* __restrict__ less,       // [K]
                float* __restrict__ logits,           // [N, V]
                int32_t vocab) {
    await_predecessors();
    int64_t row = blockIdx.x;
    for (int k = offsets[row] + (int)threadIdx.x; k < offsets[row + 1]; k += (int)blockDim.x) {
        int64_t at = row * vocab + id[k];
        float z = logits[at] + bias[k];
        z = z > 0.0f ? z / repeat[k] : z * repeat[k];
        logits[at] = z - less[k];
    }
}
