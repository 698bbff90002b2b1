// lab_attn_v3_tile   o = softmax(scale q k^T) v, causal inside each sequence: 32 queries share what they read
//
// A chunk of keys and values stands in shared memory while all queries of a tile walk over it: it is read once a tile, not once
// a query, and by neighbouring threads. The walk is that of attn_fwd_f32 (common/attn_f32.cuh).
//
// Shapes          q, o [N, H, D], k, v [N, Hk, D] bf16   cu_seqlens [B + 1] i32   lse [N, H] f32, all packed
// Numerics        f32 on CUDA cores, online softmax over chunks of 32 keys: the chains of v2.
// Parallel        one block a tile of 32 queries of one head, eight lanes a query.
// Cost            4 D FLOP a query, head and key it sees; reads q, writes o once, reads k and v once a tile. Five words of shared
//                 memory for four multiply-adds of a score, two for one of the output: bound by them.
// Determinism     the bits of lab_attn_v2_online_bf16.
// Requires        D <= 128.
// Source          Dao et al. 2022, arXiv:2205.14135, alg. 1.
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_f32.cuh"
#include "common/shared.cuh"

// s_to [32 rows], rows of `dim` floats `stride` apart, from rows of bf16 `from_stride` apart; rows past `rows` become 0.
__device__ __forceinline__ void widen_rows(float* s_to, int stride, const bf16* __restrict__ from, int64_t from_stride,
                                           int rows, int dim) {
    for (int i = threadIdx.x; i < CHUNK * dim; i += blockDim.x) {
        int row = i / dim, d = i % dim;
        s_to[row * stride + d] = row < rows ? to_f32(from[row * from_stride + d]) : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 2)
    lab_attn_v3_tile_bf16(const bf16* __restrict__ q,      // [N, H, D]
                          const bf16* __restrict__ k,      // [N, Hk, D]
                          const bf16* __restrict__ v,      // [N, Hk, D]
                          const int32_t* __restrict__ cu,  // [B + 1]
                          bf16* __restrict__ o,            // [N, H, D]
                          float* __restrict__ lse,         // [N, H]
                          int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim, float scale) {
    SHARED_DYNAMIC(float, s_q);  // [32, stride], then k, v the same, then p [32, 33]
    int stride = dim | 1, head = blockIdx.y, kv = head / (n_heads / n_kv_heads);
    float *s_k = s_q + CHUNK * stride, *s_v = s_k + CHUNK * stride, *s_p = s_v + CHUNK * stride;
    Tile at = tile_at<CHUNK>(cu, nullptr, n_seqs, blockIdx.x);
    if (at.rows == 0) return;
    int query = threadIdx.x / LANES, n_keys = at.tile + at.rows;
    int64_t row = at.start + at.tile, q_stride = (int64_t)n_heads * dim, k_stride = (int64_t)n_kv_heads * dim;
    const bf16 *of_k = k + at.start * k_stride + (int64_t)kv * dim, *of_v = v + at.start * k_stride + (int64_t)kv * dim;
    widen_rows(s_q, stride, q + row * q_stride + (int64_t)head * dim, q_stride, at.rows, dim);
    Walk<128 / LANES> walk;
    walk.open();
    for (int32_t chunk = 0; chunk < n_keys; chunk += CHUNK) {
        __syncthreads();  // the last chunk is read
        widen_rows(s_k, stride, of_k + chunk * k_stride, k_stride, n_keys - chunk, dim);
        widen_rows(s_v, stride, of_v + chunk * k_stride, k_stride, n_keys - chunk, dim);
        __syncthreads();  // q and the chunk stand in shared memory
        int seen = min(CHUNK, at.tile + query + 1 - chunk);
        walk_chunk(walk, s_q + query * stride, s_k, s_v, s_p + query * (CHUNK + 1), stride, dim, seen, scale);
    }
    if (query >= at.rows) return;
    bf16* to = o + (row + query) * q_stride + (int64_t)head * dim;
    float factor = 1.0f / walk.sum;
#pragma unroll
    for (int r = 0; r < 128 / LANES; r++) {
        int d = threadIdx.x % LANES + LANES * r;
        if (d < dim) to[d] = from_f32<bf16>(walk.acc[r] * factor);
    }
    if (threadIdx.x % LANES == 0) lse[(row + query) * n_heads + head] = walk.max + log_f32(walk.sum);
}
