// attn_bwd_dq_f32 dq = ds k,   ds = p (dp - delta) scale,  p = exp(scale q k - lse),  dp = do v,  delta = sum_d o do
//
// Shapes          do, q, o, dq [N, H, D], k, v [N, Hk, D] f32   lse [N, H] f32   cu_seqlens [B + 1] i32
//                 prefixes [B, 2] i32 or null (common/attn.cuh)
// Numerics        CUDA cores, any D up to 256. Scores are computed again from q, k and lse.
// Parallel        one block a tile of 32 queries of one head, eight lanes a query.
// Cost            6 D FLOP a query, head and key it sees; reads k and v once a tile.
// Determinism     a token's bits depend on its sequence up to it alone; keys ascending. The bits of the CPU device.
// Source          Dao et al. 2022, arXiv:2205.14135, appendix B.
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_f32.cuh"
#include "common/shared.cuh"

template <int ACC>
__device__ __forceinline__ void attn_bwd_dq(const float* __restrict__ d_o,         // [N, H, D]
                                            const float* __restrict__ q,           // [N, H, D]
                                            const float* __restrict__ k,           // [N, Hk, D]
                                            const float* __restrict__ v,           // [N, Hk, D]
                                            const float* __restrict__ o,           // [N, H, D]
                                            const float* __restrict__ lse,         // [N, H]
                                            const int32_t* __restrict__ cu,        // [B + 1]
                                            const int32_t* __restrict__ prefixes,  // [B, 2], or null
                                            float* __restrict__ dq,                // [N, H, D], =
                                            int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                                            float scale) {
    SHARED_DYNAMIC(float, s_q);  // [32, stride], then do, k, v the same, then ds [32, P_STRIDE]
    int stride = dim | 1, head = blockIdx.y, kv = head / (n_heads / n_kv_heads);
    float *s_do = s_q + CHUNK * stride, *s_k = s_do + CHUNK * stride, *s_v = s_k + CHUNK * stride;
    int query = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float* s_ds = s_v + CHUNK * stride + query * P_STRIDE;
    Tile at = tile_at<CHUNK>(cu, prefixes, n_seqs, blockIdx.x);
    if (at.rows == 0) return;
    int64_t row = at.start + at.tile, q_stride = (int64_t)n_heads * dim, k_stride = (int64_t)n_kv_heads * dim;
    int64_t first = row * q_stride + (int64_t)head * dim;
    bool live = query < at.rows;
    load_rows(s_do, stride, d_o + first, q_stride, CHUNK, at.rows, dim);
    load_rows(s_q, stride, o + first, q_stride, CHUNK, at.rows, dim);
    __syncthreads();  // do and, for now, o in the place of q
    float delta = dot_1(s_q + query * stride, s_do + query * stride, dim);
    float row_lse = live ? lse[(row + query) * n_heads + head] : 0.0f;
    __syncthreads();  // o is read
    load_rows(s_q, stride, q + first, q_stride, CHUNK, at.rows, dim);
    float acc[ACC];
#pragma unroll
    for (int r = 0; r < ACC; r++) acc[r] = 0.0f;
    int32_t before = at.prefix + at.tile, n_keys = before + at.rows;
    for (int32_t chunk = 0; chunk < n_keys; chunk += CHUNK) {
        int keys = min(CHUNK, n_keys - chunk);
        __syncthreads();  // the last chunk is read
        load_keys(s_k, stride, k + (int64_t)kv * dim, k_stride, at, chunk, keys, dim);
        load_keys(s_v, stride, v + (int64_t)kv * dim, k_stride, at, chunk, keys, dim);
        __syncthreads();  // q, do and the chunk stand in shared memory
        float s[4], dp[4];
        dot_4(s, s_q + query * stride, s_k, stride, dim);
        dot_4(dp, s_do + query * stride, s_v, stride, dim);
#pragma unroll
        for (int c = 0; c < 4; c++) {
            bool seen = live && chunk + lane + LANES * c <= before + query;
            float p = seen ? exp_log_prob_f32(s[c] * scale - row_lse) : 0.0f;
            s_ds[lane + LANES * c] = p * (dp[c] - delta) * scale;
        }
        __syncwarp();  // ds holds the query's row of the chunk
        add_rows(acc, s_ds, keys, s_k, stride, dim);
    }
    if (!live) return;
#pragma unroll
    for (int r = 0; r < ACC; r++) {
        int d = lane + LANES * r;
        if (d < dim) dq[first + query * q_stride + d] = acc[r];
    }
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 1)
    attn_bwd_dq_f32_d32(const float* __restrict__ d_o, const float* __restrict__ q, const float* __restrict__ k,
                        const float* __restrict__ v, const float* __restrict__ o, const float* __restrict__ lse,
                        const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ dq,
                        int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim, float scale) {
    attn_bwd_dq<32 / LANES>(d_o, q, k, v, o, lse, cu, prefixes, dq, n_seqs, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 1)
    attn_bwd_dq_f32_d64(const float* __restrict__ d_o, const float* __restrict__ q, const float* __restrict__ k,
                        const float* __restrict__ v, const float* __restrict__ o, const float* __restrict__ lse,
                        const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ dq,
                        int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim, float scale) {
    attn_bwd_dq<64 / LANES>(d_o, q, k, v, o, lse, cu, prefixes, dq, n_seqs, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 1)
    attn_bwd_dq_f32_d128(const float* __restrict__ d_o, const float* __restrict__ q, const float* __restrict__ k,
                         const float* __restrict__ v, const float* __restrict__ o, const float* __restrict__ lse,
                         const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ dq,
                         int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim, float scale) {
    attn_bwd_dq<128 / LANES>(d_o, q, k, v, o, lse, cu, prefixes, dq, n_seqs, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 1)
    attn_bwd_dq_f32_d256(const float* __restrict__ d_o, const float* __restrict__ q, const float* __restrict__ k,
                         const float* __restrict__ v, const float* __restrict__ o, const float* __restrict__ lse,
                         const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ dq,
                         int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim, float scale) {
    attn_bwd_dq<256 / LANES>(d_o, q, k, v, o, lse, cu, prefixes, dq, n_seqs, n_heads, n_kv_heads, dim, scale);
}
