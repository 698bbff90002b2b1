// lab_attn_v1_scores   o = softmax(scale q k^T) v, causal inside each sequence, through a matrix of all scores
//
// As the formula is written: all scores of a query, then their softmax, then their mean of the values: three passes over the
// matrix of scores.
//
// Shapes          q, o [N, H, D], k, v [N, Hk, D] bf16   cu_seqlens [B + 1] i32   lse [N, H] f32, all packed
//                 scores [N, H, T] f32, T keys of the longest sequence
// Numerics        f32: a score is one chain over D, an element of o one chain over the keys; sums of lanes as a tree.
// Parallel        one warp a query and head, four a block; a lane has every 32nd key, then every 32nd element of o.
// Cost            4 D FLOP a query, head and key it sees; each query reads its keys and values by itself, keys 32 rows a
//                 request; moves 20 bytes a score.
// Determinism     a token's bits depend on its sequence up to it alone.
// Requires        D <= 128.
// Oracle          src/ops/attn/oracle.rs
#include "lab/attn/query.cuh"

extern "C" __global__ void __launch_bounds__(32 * QUERIES)
    lab_attn_v1_scores_bf16(const bf16* __restrict__ q,      // [N, H, D]
                            const bf16* __restrict__ k,      // [N, Hk, D]
                            const bf16* __restrict__ v,      // [N, Hk, D]
                            const int32_t* __restrict__ cu,  // [B + 1]
                            float* scores,                   // [N, H, T]
                            bf16* __restrict__ o,            // [N, H, D]
                            float* __restrict__ lse,         // [N, H]
                            int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim, int32_t longest,
                            float scale) {
    Query at = query_of_warp(cu, n_seqs, n_heads, n_kv_heads, dim);
    if (at.n_keys == 0) return;
    int lane = threadIdx.x % 32;
    float* of_query = scores + at.row * longest;
    float max = NEG_INF, sum = 0.0f;
    for (int32_t key = lane; key < at.n_keys; key += 32) {
        float score = dot_key(q + at.q_at, k + at.k_at + key * at.k_stride, dim) * scale;
        of_query[key] = score;
        max = score > max ? score : max;
    }
    max = lanes_max<32>(max);
    for (int32_t key = lane; key < at.n_keys; key += 32) {
        float p = exp_f32(of_query[key] - max);
        of_query[key] = p;
        sum += p;
    }
    sum = lanes_sum<32>(sum);
    __syncwarp();  // the warp's probabilities stand in memory
    float acc[MOST] = {};
    for (int32_t key = 0; key < at.n_keys; key++) add_value(acc, of_query[key], v + at.k_at + key * at.k_stride, dim);
    store_query(o + at.q_at, lse + at.row, acc, max, sum, dim);
}
