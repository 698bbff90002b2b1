// route_topk_fwd  p = softmax(z);   the A experts of a token with the largest z, and their gates: p, or p / sum of the A
//
// Shapes          logits [N, E] f32   probs [N, E] f32   experts [N, A] i32   gates [N, A] f32
// Numerics        f32; exp, and the order of the sum over E, of common/softmax.cuh. Experts are ranked by logits, whose order
//                 is that of probabilities and finer; among equals the lower one comes first. gates are divided by their sum
//                 in the order of ranks. NaN ranks last, so that ids are valid and distinct; it makes all of a token's
//                 probs and gates NaN.
// Parallel        half a warp a token, whose logits stand in shared memory: lane l has the experts l, l + 16, ...; A rounds of
//                 arg-max, each over what comes after the expert found before.
// Cost            reads 4NE bytes, writes 4NE + 8NA. Latency bound.
// Sass sm_90a     route: PREEXIT ACQBULK
// Determinism     a token's bits depend on its logits alone; those of the CPU device.
// Requires        A <= E <= 256.
// Source          Shazeer et al. 2017, arXiv:1701.06538, eq. 3 to 5; gates normalised over the A: Jiang et al. 2024,
//                 arXiv:2401.04088, section 2.
// Oracle          src/ops/moe/oracle.rs
#include "common/dependent.cuh"
#include "common/order.cuh"
#include "common/softmax.cuh"
#include "moe/route.cuh"

constexpr int32_t FIRST = 0x7fffffff, LAST = -FIRST - 1;  // ranks before all, and after

__device__ __forceinline__ int32_t rank_of(float z) { return z != z ? LAST : rank_f32(z); }

// True when (key, id) comes before the other: a larger key, or an equal one with a lower id.
__device__ __forceinline__ bool before(int32_t key, int32_t id, int32_t other_key, int32_t other_id) {
    return key > other_key || (key == other_key && id < other_id);
}

extern "C" __global__ void __launch_bounds__(128)
    route_topk_fwd(const float* logits,        // [N, E]
                   float* __restrict__ probs,         // [N, E]
                   int32_t* __restrict__ experts,     // [N, A]
                   float* __restrict__ gates,         // [N, A]
                   int64_t n_rows, int32_t n_experts, int32_t n_active, int32_t normalise) {
    static_assert(SPAN_LANES == ROUTE_LANES, "half a warp");
    __shared__ OfTokens<float> s_logits, s_gates;
    __shared__ OfTokens<int32_t> s_experts;
    await_predecessors();
    int of_block = threadIdx.x / SPAN_LANES, lane = threadIdx.x % SPAN_LANES;
    int64_t row = (int64_t)blockIdx.x * ROUTE_ROWS + of_block;
    bool live = row < n_rows;
    // Rows past the end walk along with no experts: every lane of a warp takes part in the shuffles.
    int32_t width = live ? n_experts : 0;
    float* z = s_logits[of_block];
    load_token(z, logits + (live ? row * n_experts : 0), width);
    __syncwarp();  // z is the token's logits
    SoftmaxSums s = piece_sums(z, width, lane, 1.0f);
    float base = s.max > NEG_INF ? s.max : 0.0f, total = 0.0f;
    for (int32_t i = lane; i < width; i += SPAN_LANES) probs[row * n_experts + i] = exp_log_prob_f32(z[i] - base) / s.sum;
    int32_t key = FIRST, id = -1;
    for (int32_t rank = 0; rank < n_active; rank++) {
        int32_t best = LAST, best_id = FIRST;
        for (int32_t i = lane; i < width; i += SPAN_LANES) {
            int32_t own = rank_of(z[i]);
            if (before(key, id, own, i) && before(own, i, best, best_id)) best = own, best_id = i;
        }
#pragma unroll
        for (int half = SPAN_LANES / 2; half > 0; half /= 2) {
            int32_t other = __shfl_xor_sync(ALL_LANES, best, half), other_id = __shfl_xor_sync(ALL_LANES, best_id, half);
            if (before(other, other_id, best, best_id)) best = other, best_id = other_id;
        }
        key = best, id = best_id;  // every lane has the round's expert
        if (!live) continue;
        float p = exp_log_prob_f32(z[id] - base) / s.sum;
        total += p;
        // Each lane reads what it wrote itself.
        if (lane == rank % SPAN_LANES) {
            s_experts[of_block][rank] = id;
            s_gates[of_block][rank] = p;
        }
    }
    for (int32_t rank = lane; rank < (live ? n_active : 0); rank += SPAN_LANES) {
        experts[row * n_active + rank] = s_experts[of_block][rank];
        float p = s_gates[of_block][rank];
        gates[row * n_active + rank] = normalise ? p / total : p;
    }
}
