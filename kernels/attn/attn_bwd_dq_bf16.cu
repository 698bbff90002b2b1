// attn_bwd_dq_bf16    dq = ds k,   ds = p (dp - delta) scale,  p = exp(scale q k - lse),  dp = do v,  delta = sum_d o do
//
// Shapes          do, q, o, dq [N, H, D], k, v [N, Hk, D] bf16   lse [N, H] f32   cu_seqlens [B + 1] i32
//                 prefixes [B, 2] i32 or null (common/attn.cuh)
// Numerics        tensor cores, D of 32, 64, 128. Scores are computed again from q, k and lse; ds rounded to bf16 for ds k
//                 alone.
// Parallel        one block a tile of 64 queries of one head, a warp 16; the next chunk of keys comes by cp.async while this
//                 one is worked on.
// Cost            6 D FLOP a query, head and key it sees; reads k and v once a tile.
// Determinism     a token's bits depend on its sequence up to it alone; keys ascending.
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Source          Dao et al. 2022, arXiv:2205.14135, appendix B.
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_bf16.cuh"
#include "common/shared.cuh"

constexpr int QUERIES = 64;  // of a tile

template <int D>
__device__ __forceinline__ void attn_bwd_dq(const bf16* __restrict__ d_o,          // [N, H, D]
                                            const bf16* __restrict__ q,            // [N, H, D]
                                            const bf16* __restrict__ k,            // [N, Hk, D]
                                            const bf16* __restrict__ v,            // [N, Hk, D]
                                            const bf16* __restrict__ o,            // [N, H, D]
                                            const float* __restrict__ lse,         // [N, H]
                                            const int32_t* __restrict__ cu,        // [B + 1]
                                            const int32_t* __restrict__ prefixes,  // [B, 2], or null
                                            bf16* __restrict__ dq,                 // [N, H, D], =
                                            int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, float scale) {
    SHARED_DYNAMIC(bf16, s_q);  // [64, D], do the same, then twice k [32, D], v [32, D]
    bf16 *s_do = s_q + QUERIES * D, *s_ring = s_do + QUERIES * D;
    __shared__ float s_delta[QUERIES];
    int head = blockIdx.y, kv = head / (n_heads / n_kv_heads), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Tile at = tile_at<QUERIES>(cu, prefixes, n_seqs, blockIdx.x);
    if (at.rows == 0) return;
    int64_t row = at.start + at.tile, q_stride = (int64_t)n_heads * D, k_stride = (int64_t)n_kv_heads * D;
    int64_t first = row * q_stride + (int64_t)head * D;
    int32_t before = at.prefix + at.tile, n_keys = before + at.rows;
    auto load = [&](int32_t chunk) {
        bf16* s_k = s_ring + chunk / CHUNK % 2 * 2 * CHUNK * D;
        if (chunk < n_keys) {
            load_keys<D>(s_k, k + (int64_t)kv * D, k_stride, at, chunk, n_keys - chunk);
            load_keys<D>(s_k + CHUNK * D, v + (int64_t)kv * D, k_stride, at, chunk, n_keys - chunk);
        }
        cp_async_commit();  // an empty group keeps the count
    };
    load_tile<D>(s_q, q + first, q_stride, QUERIES, at.rows);
    load_tile<D>(s_do, d_o + first, q_stride, QUERIES, at.rows);
    load(0);
    for (int i = threadIdx.x / 4; i < QUERIES; i += 32) {
        int64_t from = first + (i < at.rows ? i : 0) * q_stride;
        float delta = row_delta<D>(o + from, d_o + from, i < at.rows);
        if (lane % 4 == 0) s_delta[i] = delta;
    }
    __syncthreads();  // s_delta holds the tile's delta
    int query = warp * 16 + lane / 4;
    float row_lse[2], delta[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        bool live = query + 8 * r < at.rows;
        row_lse[r] = live ? lse[(row + query + 8 * r) * n_heads + head] : 0.0f;
        delta[r] = s_delta[query + 8 * r];
    }
    float acc[D / 8][4] = {};
    for (int32_t chunk = 0; chunk < n_keys; chunk += CHUNK) {
        load(chunk + CHUNK);
        cp_async_wait<1>();
        __syncthreads();  // q, do and this chunk stand in shared memory
        const bf16* s_k = s_ring + chunk / CHUNK % 2 * 2 * CHUNK * D;
        float s[4][4], dp[4][4];
        dot_rows<D>(s, s_q, warp * 16, s_k, 0);
        dot_rows<D>(dp, s_do, warp * 16, s_k + CHUNK * D, 0);
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int r = e / 2, key = chunk + j * 8 + lane % 4 * 2 + e % 2;
                bool seen = query + 8 * r < at.rows && key <= before + query + 8 * r;
                float p = seen ? exp_log_prob_f32(s[j][e] * scale - row_lse[r]) : 0.0f;
                s[j][e] = p * (dp[j][e] - delta[r]) * scale;
            }
        }
        add_product<D>(acc, s, s_k, 0);
        __syncthreads();  // the chunk is read before its place is written again
    }
    cp_async_wait<0>();  // nothing is under way when the block ends
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (query + 8 * r >= at.rows) continue;
        bf16* to = dq + first + (query + 8 * r) * q_stride + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            store_pack<2>(to + j * 8,
                          Pack<bf16, 2>{{from_f32<bf16>(acc[j][2 * r]), from_f32<bf16>(acc[j][2 * r + 1])}});
        }
    }
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_bwd_dq_bf16_d32(const bf16* __restrict__ d_o, const bf16* __restrict__ q, const bf16* __restrict__ k,
                         const bf16* __restrict__ v, const bf16* __restrict__ o, const float* __restrict__ lse,
                         const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, bf16* __restrict__ dq,
                         int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t /* dim */, float scale) {
    attn_bwd_dq<32>(d_o, q, k, v, o, lse, cu, prefixes, dq, n_seqs, n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_bwd_dq_bf16_d64(const bf16* __restrict__ d_o, const bf16* __restrict__ q, const bf16* __restrict__ k,
                         const bf16* __restrict__ v, const bf16* __restrict__ o, const float* __restrict__ lse,
                         const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, bf16* __restrict__ dq,
                         int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t /* dim */, float scale) {
    attn_bwd_dq<64>(d_o, q, k, v, o, lse, cu, prefixes, dq, n_seqs, n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_bwd_dq_bf16_d128(const bf16* __restrict__ d_o, const bf16* __restrict__ q, const bf16* __restrict__ k,
                          const bf16* __restrict__ v, const bf16* __restrict__ o, const float* __restrict__ lse,
                          const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, bf16* __restrict__ dq,
                          int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t /* dim */, float scale) {
    attn_bwd_dq<128>(d_o, q, k, v, o, lse, cu, prefixes, dq, n_seqs, n_heads, n_kv_heads, scale);
}
