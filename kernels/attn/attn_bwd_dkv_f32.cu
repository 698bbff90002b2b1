// attn_bwd_dkv_f32    dv = p^T do,  dk = ds^T q,   p and ds as in attn_bwd_dq_f32
//
// Shapes          do, q, o [N, H, D], k, v, dk, dv [N, Hk, D] f32   lse [N, H] f32   cu_seqlens [B + 1] i32
//                 prefixes [B, 2] i32 or null (common/attn.cuh)
// Numerics        CUDA cores, any D up to 256. Scores are computed again from q, k and lse.
// Parallel        one block a chunk of 32 keys of one kv head, eight lanes a key; it walks the queries that see them.
// Cost            8 D FLOP a query, head and key it sees; reads q, do and o once a chunk and head.
// Determinism     no atomics: queries of the own sequence, then of the sequences on it in their order; of each, tiles
//                 ascending, heads of the group ascending, queries ascending. The bits of the CPU device.
// Source          Dao et al. 2022, arXiv:2205.14135, appendix B.
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_f32.cuh"
#include "common/shared.cuh"

template <int ACC>
__device__ __forceinline__ void attn_bwd_dkv(const float* __restrict__ d_o,         // [N, H, D]
                                             const float* __restrict__ q,           // [N, H, D]
                                             const float* __restrict__ k,           // [N, Hk, D]
                                             const float* __restrict__ v,           // [N, Hk, D]
                                             const float* __restrict__ o,           // [N, H, D]
                                             const float* __restrict__ lse,         // [N, H]
                                             const int32_t* __restrict__ cu,        // [B + 1]
                                             const int32_t* __restrict__ prefixes,  // [B, 2], or null
                                             float* __restrict__ dk,                // [N, Hk, D], =
                                             float* __restrict__ dv,                // [N, Hk, D], =
                                             int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                                             float scale) {
    SHARED_DYNAMIC(float, s_q);  // [32, stride], then do, k, v the same, then p, ds [32, P_STRIDE], lse, delta [32]
    int stride = dim | 1, kv = blockIdx.y, group = n_heads / n_kv_heads;
    float *s_do = s_q + CHUNK * stride, *s_k = s_do + CHUNK * stride, *s_v = s_k + CHUNK * stride;
    int key = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float* s_p = s_v + CHUNK * stride + key * P_STRIDE;
    float* s_ds = s_p + CHUNK * P_STRIDE;
    float *s_lse = s_v + CHUNK * stride + 2 * CHUNK * P_STRIDE, *s_delta = s_lse + CHUNK;
    Tile at = tile_at<CHUNK>(cu, prefixes, n_seqs, blockIdx.x);
    if (at.rows == 0) return;
    int64_t q_stride = (int64_t)n_heads * dim, k_stride = (int64_t)n_kv_heads * dim;
    int64_t keys_at = (at.start + at.tile) * k_stride + (int64_t)kv * dim;
    load_rows(s_k, stride, k + keys_at, k_stride, CHUNK, at.rows, dim);
    load_rows(s_v, stride, v + keys_at, k_stride, CHUNK, at.rows, dim);
    float acc_k[ACC], acc_v[ACC];
#pragma unroll
    for (int r = 0; r < ACC; r++) acc_k[r] = acc_v[r] = 0.0f;
    for (QueryTiles t(cu, prefixes, n_seqs, group, at); t.rows > 0; t.next()) {
        int rows = t.rows, head = kv * group + t.head;
        int64_t row = t.start + t.first, first = row * q_stride + (int64_t)head * dim;
        __syncthreads();  // the last queries are read
        load_rows(s_do, stride, d_o + first, q_stride, CHUNK, rows, dim);
        load_rows(s_q, stride, o + first, q_stride, CHUNK, rows, dim);
        __syncthreads();  // do and, for now, o in the place of q
        float delta = dot_1(s_q + key * stride, s_do + key * stride, dim);
        if (lane == 0) {
            s_delta[key] = delta;
            s_lse[key] = key < rows ? lse[(row + key) * n_heads + head] : 0.0f;
        }
        __syncthreads();  // o is read
        load_rows(s_q, stride, q + first, q_stride, CHUNK, rows, dim);
        __syncthreads();  // the tile's q, do, lse and delta stand in shared memory
        float s[4], dp[4];
        dot_4(s, s_k + key * stride, s_q, stride, dim);
        dot_4(dp, s_v + key * stride, s_do, stride, dim);
#pragma unroll
        for (int c = 0; c < 4; c++) {
            int query = lane + LANES * c;
            bool seen = key < t.seen(query);
            float p = seen ? exp_log_prob_f32(s[c] * scale - s_lse[query]) : 0.0f;
            s_p[query] = p;
            s_ds[query] = p * (dp[c] - s_delta[query]) * scale;
        }
        __syncwarp();  // p and ds hold the key's row of the tile
        add_rows(acc_v, s_p, rows, s_do, stride, dim);
        add_rows(acc_k, s_ds, rows, s_q, stride, dim);
    }
    if (key >= at.rows) return;
#pragma unroll
    for (int r = 0; r < ACC; r++) {
        int d = lane + LANES * r;
        if (d >= dim) continue;
        dk[keys_at + key * k_stride + d] = acc_k[r];
        dv[keys_at + key * k_stride + d] = acc_v[r];
    }
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 1)
    attn_bwd_dkv_f32_d32(const float* __restrict__ d_o, const float* __restrict__ q, const float* __restrict__ k,
                         const float* __restrict__ v, const float* __restrict__ o, const float* __restrict__ lse,
                         const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ dk,
                         float* __restrict__ dv, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                         float scale) {
    attn_bwd_dkv<32 / LANES>(d_o, q, k, v, o, lse, cu, prefixes, dk, dv, n_seqs, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 1)
    attn_bwd_dkv_f32_d64(const float* __restrict__ d_o, const float* __restrict__ q, const float* __restrict__ k,
                         const float* __restrict__ v, const float* __restrict__ o, const float* __restrict__ lse,
                         const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ dk,
                         float* __restrict__ dv, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                         float scale) {
    attn_bwd_dkv<64 / LANES>(d_o, q, k, v, o, lse, cu, prefixes, dk, dv, n_seqs, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 1)
    attn_bwd_dkv_f32_d128(const float* __restrict__ d_o, const float* __restrict__ q, const float* __restrict__ k,
                          const float* __restrict__ v, const float* __restrict__ o, const float* __restrict__ lse,
                          const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ dk,
                          float* __restrict__ dv, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                          float scale) {
    attn_bwd_dkv<128 / LANES>(d_o, q, k, v, o, lse, cu, prefixes, dk, dv, n_seqs, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 1)
    attn_bwd_dkv_f32_d256(const float* __restrict__ d_o, const float* __restrict__ q, const float* __restrict__ k,
                          const float* __restrict__ v, const float* __restrict__ o, const float* __restrict__ lse,
                          const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ dk,
                          float* __restrict__ dv, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                          float scale) {
    attn_bwd_dkv<256 / LANES>(d_o, q, k, v, o, lse, cu, prefixes, dk, dv, n_seqs, n_heads, n_kv_heads, dim, scale);
}
