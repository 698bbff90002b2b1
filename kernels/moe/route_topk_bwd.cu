// route_topk_bwd  dz_e = q_e (d_e - sum_i g_i d_i),   g, d the gates of a token's experts and their gradients;
//                 q_e, d_e those of e where it is among them; else d_e = 0, and q_e = p_e, or 0 when gates are normalised
//
// Shapes          dgates, gates [N, A] f32   probs [N, E] f32   experts [N, A] i32   dlogits [N, E] f32
// Numerics        f32; the sum is one chain of fused multiply-adds in the order of ranks.
// Parallel        half a warp a token, whose ids and gates stand in shared memory: lane l has the experts l, l + 16, ...
// Cost            reads 4NE + 12NA bytes, of normalised gates 12NA, writes 4NE. Memory bound.
// Determinism     a token's bits depend on that token alone; those of the CPU device.
// Derivation      Normalised, g = softmax over the token's own experts alone: dg_i/dz_j = g_i ((i = j) - g_j). Else g_i = p_i,
//                 softmax over all: dp_i/dz_e = p_i ((i = e) - p_e). Which experts are taken has no slope.
// Source          Shazeer et al. 2017, arXiv:1701.06538, eq. 3 to 5.
// Oracle          src/ops/moe/oracle.rs
#include "moe/route.cuh"

extern "C" __global__ void __launch_bounds__(128)
    route_topk_bwd(const float* __restrict__ dgates,     // [N, A]
                   const float* __restrict__ probs,      // [N, E]
                   const int32_t* __restrict__ experts,  // [N, A]
                   const float* __restrict__ gates,      // [N, A]
                   float* __restrict__ dlogits,          // [N, E], =
                   int64_t n_rows, int32_t n_experts, int32_t n_active, int32_t normalise) {
    __shared__ OfTokens<int32_t> s_experts;
    __shared__ OfTokens<float> s_gates, s_dgates;
    int of_block = threadIdx.x / ROUTE_LANES;
    int64_t row = (int64_t)blockIdx.x * ROUTE_ROWS + of_block, at = row * n_active;
    bool live = row < n_rows;
    int32_t *ids = s_experts[of_block], n_ranks = live ? n_active : 0;
    float *g = s_gates[of_block], *dg = s_dgates[of_block];
    load_token(ids, experts + at, n_ranks);
    load_token(g, gates + at, n_ranks);
    load_token(dg, dgates + at, n_ranks);
    __syncwarp();  // ids, g, dg are the token's
    float dot = 0.0f;
    for (int32_t rank = 0; rank < n_ranks; rank++) dot = fmaf(g[rank], dg[rank], dot);
    for (int32_t e = threadIdx.x % ROUTE_LANES; e < (live ? n_experts : 0); e += ROUTE_LANES) {
        float share = normalise ? 0.0f : probs[row * n_experts + e], d = 0.0f;
        for (int32_t rank = 0; rank < n_ranks; rank++) {
            if (ids[rank] == e) share = g[rank], d = dg[rank];
        }
        dlogits[row * n_experts + e] = share * (d - dot);
    }
}
