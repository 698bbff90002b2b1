// route_balance_bwd  dz_e += p_e (c_e - sum_i p_i c_i),   c_e = scale counts_e,   scale = weight E / N^2
//
// Shapes          probs [N, E] f32   counts [E] i32   dlogits [N, E] f32
// Numerics        f32
// Parallel        half a warp a token: lane l has the experts l, l + 16, ...; its sum, then halves are added, 8, 4, 2, 1.
// Cost            reads 8NE bytes (the probs again from cache), writes 4NE. Memory bound.
// Determinism     a token's bits depend on its probs and the counts alone; those of the CPU device.
// Derivation      d loss / d p_e = E f_e / N = E counts_e / N^2 (counts have no slope); dp_i/dz_e = p_i ((i = e) - p_e).
// Source          Fedus, Zoph and Shazeer 2021, arXiv:2101.03961, eq. 4 to 6.
// Oracle          src/ops/moe/oracle.rs
#include "common/reduce.cuh"

extern "C" __global__ void __launch_bounds__(128)
    route_balance_bwd(const float* __restrict__ probs,     // [N, E]
                      const int32_t* __restrict__ counts,  // [E]
                      float* dlogits,                      // [N, E], +=
                      int64_t n_rows, int32_t n_experts, float scale) {
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 16) + threadIdx.x / 16;
    int lane = threadIdx.x % 16;
    bool live = row < n_rows;
    int64_t at = live ? row * n_experts : 0;
    // Rows past the end walk along with nothing to sum: every lane of a warp takes part in the shuffles.
    int32_t width = live ? n_experts : 0;
    float dot = 0.0f;
    for (int32_t e = lane; e < width; e += 16) dot = fmaf(probs[at + e], scale * (float)counts[e], dot);
    dot = lanes_sum<16>(dot);
    for (int32_t e = lane; e < width; e += 16) {
        dlogits[at + e] = fmaf(probs[at + e], scale * (float)counts[e] - dot, dlogits[at + e]);
    }
}
