// attn_bwd_dkv_bf16   dv = p^T do,  dk = ds^T q,   p and ds as in attn_bwd_dq_bf16
//
// Shapes          do, q, o [N, H, D], k, v, dk, dv [N, Hk, D] bf16   lse [N, H] f32   cu_seqlens [B + 1] i32
//                 prefixes [B, 2] i32 or null (common/attn.cuh)
// Numerics        tensor cores, D of 32, 64, 128. Scores are computed again from q, k and lse; p and ds rounded to bf16 for
//                 the products with do and q alone.
// Parallel        one block 64 keys of one kv head, a warp 16; it walks the queries that see them, 32 of a head at a time, the
//                 next ones by cp.async while these are worked on.
// Cost            8 D FLOP a query, head and key it sees; reads q, do and o once a tile and head.
// Determinism     no atomics: queries of the own sequence, then of the sequences on it in their order; of each, tiles
//                 ascending, heads of the group ascending, queries ascending.
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Source          Dao et al. 2022, arXiv:2205.14135, appendix B.
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_bf16.cuh"
#include "common/shared.cuh"

constexpr int KEYS = 64;  // of a tile

template <int D>
__device__ __forceinline__ void attn_bwd_dkv(const bf16* __restrict__ d_o,          // [N, H, D]
                                             const bf16* __restrict__ q,            // [N, H, D]
                                             const bf16* __restrict__ k,            // [N, Hk, D]
                                             const bf16* __restrict__ v,            // [N, Hk, D]
                                             const bf16* __restrict__ o,            // [N, H, D]
                                             const float* __restrict__ lse,         // [N, H]
                                             const int32_t* __restrict__ cu,        // [B + 1]
                                             const int32_t* __restrict__ prefixes,  // [B, 2], or null
                                             bf16* __restrict__ dk,                 // [N, Hk, D], =
                                             bf16* __restrict__ dv,                 // [N, Hk, D], =
                                             int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, float scale) {
    SHARED_DYNAMIC(bf16, s_k);  // [64, D], v the same, then twice q [32, D], do [32, D]
    bf16 *s_v = s_k + KEYS * D, *s_ring = s_v + KEYS * D;
    __shared__ float s_lse[2][CHUNK];
    __shared__ float s_delta[2][CHUNK];
    int kv = blockIdx.y, group = n_heads / n_kv_heads, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Tile at = tile_at<KEYS>(cu, prefixes, n_seqs, blockIdx.x);
    if (at.rows == 0) return;
    int64_t q_stride = (int64_t)n_heads * D, k_stride = (int64_t)n_kv_heads * D;
    int64_t keys_at = (at.start + at.tile) * k_stride + (int64_t)kv * D;
    QueryTiles now(cu, prefixes, n_seqs, group, at), ahead = now;
    auto load = [&](int step) {
        if (ahead.rows > 0) {
            int rows = ahead.rows, head = kv * group + ahead.head;
            int64_t row = ahead.start + ahead.first, first = row * q_stride + (int64_t)head * D;
            bf16* s_q = s_ring + step % 2 * 2 * CHUNK * D;
            load_tile<D>(s_q, q + first, q_stride, CHUNK, rows);
            load_tile<D>(s_q + CHUNK * D, d_o + first, q_stride, CHUNK, rows);
            int i = threadIdx.x / 4;
            int64_t from = first + (i < rows ? i : 0) * q_stride;
            float delta = row_delta<D>(o + from, d_o + from, i < rows);
            if (lane % 4 == 0) {
                s_delta[step % 2][i] = delta;
                s_lse[step % 2][i] = i < rows ? lse[(row + i) * n_heads + head] : 0.0f;
            }
            ahead.next();
        }
        cp_async_commit();  // an empty group keeps the count
    };
    load_tile<D>(s_k, k + keys_at, k_stride, KEYS, at.rows);
    load_tile<D>(s_v, v + keys_at, k_stride, KEYS, at.rows);
    load(0);
    int key = warp * 16 + lane / 4;
    float acc_k[D / 8][4] = {}, acc_v[D / 8][4] = {};
    for (int step = 0; now.rows > 0; step++, now.next()) {
        load(step + 1);
        cp_async_wait<1>();
        __syncthreads();  // k, v and this step's q, do, lse and delta stand in shared memory
        const bf16 *s_q = s_ring + step % 2 * 2 * CHUNK * D, *s_do = s_q + CHUNK * D;
        float p[4][4], ds[4][4];
        dot_rows<D>(p, s_k, warp * 16, s_q, 0);
        dot_rows<D>(ds, s_v, warp * 16, s_do, 0);
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int query = j * 8 + lane % 4 * 2 + e % 2;
                bool seen = key + e / 2 * 8 < now.seen(query);
                p[j][e] = seen ? exp_log_prob_f32(p[j][e] * scale - s_lse[step % 2][query]) : 0.0f;
                ds[j][e] = p[j][e] * (ds[j][e] - s_delta[step % 2][query]) * scale;
            }
        }
        add_product<D>(acc_v, p, s_do, 0);
        add_product<D>(acc_k, ds, s_q, 0);
        __syncthreads();  // the step is read before its place is written again
    }
    cp_async_wait<0>();  // nothing is under way when the block ends
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (key + 8 * r >= at.rows) continue;
        int64_t to = keys_at + (key + 8 * r) * k_stride + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            store_pack<2>(dk + to + j * 8,
                          Pack<bf16, 2>{{from_f32<bf16>(acc_k[j][2 * r]), from_f32<bf16>(acc_k[j][2 * r + 1])}});
            store_pack<2>(dv + to + j * 8,
                          Pack<bf16, 2>{{from_f32<bf16>(acc_v[j][2 * r]), from_f32<bf16>(acc_v[j][2 * r + 1])}});
        }
    }
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_bwd_dkv_bf16_d32(const bf16* __restrict__ d_o, const bf16* __restrict__ q, const bf16* __restrict__ k,
                          const bf16* __restrict__ v, const bf16* __restrict__ o, const float* __restrict__ lse,
                          const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, bf16* __restrict__ dk,
                          bf16* __restrict__ dv, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t /* dim */,
                          float scale) {
    attn_bwd_dkv<32>(d_o, q, k, v, o, lse, cu, prefixes, dk, dv, n_seqs, n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_bwd_dkv_bf16_d64(const bf16* __restrict__ d_o, const bf16* __restrict__ q, const bf16* __restrict__ k,
                          const bf16* __restrict__ v, const bf16* __restrict__ o, const float* __restrict__ lse,
                          const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, bf16* __restrict__ dk,
                          bf16* __restrict__ dv, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t /* dim */,
                          float scale) {
    attn_bwd_dkv<64>(d_o, q, k, v, o, lse, cu, prefixes, dk, dv, n_seqs, n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_bwd_dkv_bf16_d128(const bf16* __restrict__ d_o, const bf16* __restrict__ q, const bf16* __restrict__ k,
                           const bf16* __restrict__ v, const bf16* __restrict__ o, const float* __restrict__ lse,
                           const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, bf16* __restrict__ dk,
                           bf16* __restrict__ dv, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads,
                           int32_t /* dim */, float scale) {
    attn_bwd_dkv<128>(d_o, q, k, v, o, lse, cu, prefixes, dk, dv, n_seqs, n_heads, n_kv_heads, scale);
}
