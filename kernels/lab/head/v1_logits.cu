// lab_head_v1_logits   lse = ln sum_v exp z_v,  logprob = z[target] - lse,  entropy = lse - sum_v p_v z_v, of all logits
//
// As one would write it first: the product leaves all logits in memory, and each row is walked for its maximum, for its sums, and
// for its target. What it costs is the memory that they stand in: 4NV bytes.
//
// Shapes          z [N, V] f32, raw logits   target [N] i32   logprob, lse, entropy [N] f32
// Numerics        f32, scaled by 1 / temperature; sums of lanes as a tree; entropy from distances to the maximum.
// Parallel        one warp a row, four a block.
// Cost            reads 8NV bytes, the second half perhaps from cache; ~25 NV FLOP.
// Determinism     a row's bits depend on that row alone.
// Oracle          src/ops/logprob/oracle.rs
#include "common/reduce.cuh"

constexpr int ROWS = 4;  // of a block

extern "C" __global__ void __launch_bounds__(32 * ROWS)
    lab_head_v1_logits(const float* __restrict__ z,         // [N, V]
                       const int32_t* __restrict__ target,  // [N]
                       float* logprob,                      // [N]
                       float* lse,                          // [N]
                       float* entropy,                      // [N]
                       int64_t n_rows, int32_t vocab, float inv_temperature) {
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / 32;
    if (row >= n_rows) return;
    const float* of = z + row * vocab;
    float max = NEG_INF, sum = 0.0f, dot = 0.0f;
    for (int32_t i = threadIdx.x % 32; i < vocab; i += 32) {
        float x = of[i] * inv_temperature;
        max = x > max ? x : max;
    }
    max = lanes_max<32>(max);
    for (int32_t i = threadIdx.x % 32; i < vocab; i += 32) {
        float below = of[i] * inv_temperature - max, p = exp_f32(below);
        sum += p;
        dot = fmaf(p, below, dot);
    }
    sum = lanes_sum<32>(sum);
    dot = lanes_sum<32>(dot);
    if (threadIdx.x % 32 != 0) return;
    float log_sum = log_f32(sum), l = max + log_sum;
    lse[row] = l;
    entropy[row] = log_sum - dot / sum;
    logprob[row] = of[target[row]] * inv_temperature - l;
}
