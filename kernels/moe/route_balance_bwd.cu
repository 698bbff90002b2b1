// route_balance_bwd  dz_e += p_e (c_e - sum_i p_i c_i),   c_e = scale counts_e,   scale = weight E / N^2
//
// Shapes          probs [N, E] f32   counts [E] i32   dlogits [N, E] f32
// Numerics        f32
// Parallel        half a warp a token, whose probs stand in shared memory, and c for all of a block: lane l has the experts
//                 l, l + 16, ...; its sum, then halves are added, 8, 4, 2, 1.
// Cost            reads 8NE bytes and 4E a block of eight tokens, writes 4NE. Memory bound.
// Determinism     a token's bits depend on its probs and the counts alone; those of the CPU device.
// Derivation      d loss / d p_e = E f_e / N = E counts_e / N^2 (counts have no slope); dp_i/dz_e = p_i ((i = e) - p_e).
// Source          Fedus, Zoph and Shazeer 2021, arXiv:2101.03961, eq. 4 to 6.
// Oracle          src/ops/moe/oracle.rs
#include "common/reduce.cuh"
#include "moe/route.cuh"

extern "C" __global__ void __launch_bounds__(128)
    route_balance_bwd(const float* __restrict__ probs,     // [N, E]
                      const int32_t* __restrict__ counts,  // [E]
                      float* dlogits,                      // [N, E], +=
                      int64_t n_rows, int32_t n_experts, float scale) {
    __shared__ OfTokens<float> s_probs;
    __shared__ float s_c[MOST_EXPERTS];
    int of_block = threadIdx.x / ROUTE_LANES, lane = threadIdx.x % ROUTE_LANES;
    int64_t row = (int64_t)blockIdx.x * ROUTE_ROWS + of_block;
    bool live = row < n_rows;
    int64_t at = live ? row * n_experts : 0;
    // Rows past the end walk along with nothing to sum: every lane of a warp takes part in the shuffles.
    int32_t width = live ? n_experts : 0;
    float *p = s_probs[of_block], dot = 0.0f;
    load_token(p, probs + at, width);
    for (int32_t e = threadIdx.x; e < n_experts; e += blockDim.x) s_c[e] = scale * (float)counts[e];
    __syncthreads();  // s_c is every token's; each lane reads of p what it wrote itself
    for (int32_t e = lane; e < width; e += ROUTE_LANES) dot = fmaf(p[e], s_c[e], dot);
    dot = lanes_sum<ROUTE_LANES>(dot);
    for (int32_t e = lane; e < width; e += ROUTE_LANES) dlogits[at + e] = fmaf(p[e], s_c[e] - dot, dlogits[at + e]);
}
