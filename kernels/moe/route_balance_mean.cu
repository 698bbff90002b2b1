// route_balance_mean  mean_e = mean_n probs[n, e],   counts_e = offsets[e + 1] - offsets[e]
//
// Shapes          probs [N, E] f32   offsets [E + 1] i32, of moe_sort   mean [E] f32   counts [E] i32
// Numerics        f32; NaN comes through.
// Parallel        32 experts a block; thread (l, e) sums the tokens l, l + 32, ... from zero, then halves are added, 16, ..., 1.
// Cost            reads 4NE bytes, writes 8E. A step of few blocks: latency bound.
// Determinism     one order of every sum, integers for counts, no atomics; the bits of the CPU device.
// Requires        N > 0
// Source          Fedus, Zoph and Shazeer 2021, arXiv:2101.03961, eq. 5 and 6.
// Oracle          src/ops/moe/oracle.rs
#include "common/math.cuh"

constexpr int LANES = 32, EXPERTS = 32;

extern "C" __global__ void __launch_bounds__(LANES * EXPERTS)
    route_balance_mean(const float* __restrict__ probs,      // [N, E]
                       const int32_t* __restrict__ offsets,  // [E + 1]
                       float* __restrict__ mean,             // [E]
                       int32_t* __restrict__ counts,         // [E]
                       int64_t n_rows, int32_t n_experts) {
    __shared__ float s_sum[LANES][EXPERTS];
    int lane = threadIdx.x / EXPERTS, column = threadIdx.x % EXPERTS;
    int32_t expert = blockIdx.x * EXPERTS + column;
    float sum = 0.0f;
    if (expert < n_experts) {
#pragma unroll 4
        for (int64_t row = lane; row < n_rows; row += LANES) sum += probs[row * n_experts + expert];
    }
    s_sum[lane][column] = sum;
    for (int half = LANES / 2; half > 0; half /= 2) {
        __syncthreads();  // s_sum holds the sums of twice as many lanes
        if (lane < half) s_sum[lane][column] += s_sum[lane + half][column];
    }
    if (lane > 0 || expert >= n_experts) return;
    mean[expert] = s_sum[0][column] / (float)n_rows;
    counts[expert] = offsets[expert + 1] - offsets[expert];
}
