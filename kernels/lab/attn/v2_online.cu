// lab_attn_v2_online   o = softmax(scale q k^T) v, causal inside each sequence: the matrix of scores never exists
//
// Keys are walked in chunks of 32, one a lane, under a running maximum: where a chunk raises it, what was summed before is
// multiplied by exp(old - new). A chunk's scores live in registers for as long as it is walked.
//
// Shapes          q, o [N, H, D], k, v [N, Hk, D] bf16   cu_seqlens [B + 1] i32   lse [N, H] f32, all packed
// Numerics        f32: a score is one chain over D, an element of o one chain over the keys; online softmax by chunks.
// Parallel        one warp a query and head, four a block.
// Cost            4 D FLOP a query, head and key it sees; each query reads its keys and values by itself, keys 32 rows a
//                 request; nothing else.
// Determinism     a token's bits depend on its sequence up to it alone.
// Requires        D <= 128.
// Source          Milakov and Gimelshein 2018, arXiv:1805.02867, alg. 3.
// Oracle          src/ops/attn/oracle.rs
#include "lab/attn/query.cuh"

extern "C" __global__ void __launch_bounds__(32 * QUERIES)
    lab_attn_v2_online_bf16(const bf16* __restrict__ q,      // [N, H, D]
                            const bf16* __restrict__ k,      // [N, Hk, D]
                            const bf16* __restrict__ v,      // [N, Hk, D]
                            const int32_t* __restrict__ cu,  // [B + 1]
                            bf16* __restrict__ o,            // [N, H, D]
                            float* __restrict__ lse,         // [N, H]
                            int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim, float scale) {
    Query at = query_of_warp(cu, n_seqs, n_heads, n_kv_heads, dim);
    float max = NEG_INF, sum = 0.0f, acc[MOST] = {};
    for (int32_t chunk = 0; chunk < at.n_keys; chunk += CHUNK) {
        int32_t key = chunk + threadIdx.x % 32, keys = min(CHUNK, at.n_keys - chunk);
        float score = NEG_INF;
        if (key < at.n_keys) score = dot_key(q + at.q_at, k + at.k_at + key * at.k_stride, dim) * scale;
        float top = lanes_max<32>(score), new_max = top > max ? top : max, rescale = exp_f32(max - new_max);
        float p = exp_f32(score - new_max);
        sum = sum * rescale + lanes_sum<32>(p);
        max = new_max;
#pragma unroll
        for (int r = 0; r < MOST; r++) acc[r] *= rescale;
        for (int j = 0; j < keys; j++) {
            add_value(acc, __shfl_sync(ALL_LANES, p, j), v + at.k_at + (chunk + j) * at.k_stride, dim);
        }
    }
    if (at.n_keys > 0) store_query(o + at.q_at, lse + at.row, acc, max, sum, dim);
}
