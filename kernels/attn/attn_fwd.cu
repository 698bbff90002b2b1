// attn_fwd        o = softmax(scale q k^T) v, causal inside each sequence
//
// Shapes          q, o [N, H, D], k, v [N, Hk, D] f32 or bf16   cu_seqlens [B + 1] i32
//                 prefixes [B, 2] i32 or null (common/attn.cuh)   lse [N, H] f32, all packed
// Numerics        online softmax over chunks of 32 keys, merged in order from the sequence's start. f32: CUDA cores,
//                 any D up to 256. bf16: tensor cores, D of 32, 64, 128; probabilities rounded to bf16 for p v alone.
// Parallel        f32: one block a tile of 32 queries of one head, eight lanes a query. bf16: 64 queries, a warp 16; the
//                 next chunk comes by cp.async while this one is worked on.
// Cost            4 D FLOP a query, head and key it sees; reads q, writes o once, reads k and v once a tile.
// Determinism     a token's bits depend on its sequence up to it alone, wherever its prefix lies: those of attn_decode,
//                 and in f32 of the CPU device (lse: within the rounding of a logarithm).
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Source          Dao et al. 2022, arXiv:2205.14135, alg. 1.
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_bf16.cuh"
#include "common/attn_f32.cuh"
#include "common/shared.cuh"

template <int ACC>
__device__ __forceinline__ void attn_fwd(const float* __restrict__ q,           // [N, H, D]
                                         const float* __restrict__ k,           // [N, Hk, D]
                                         const float* __restrict__ v,           // [N, Hk, D]
                                         const int32_t* __restrict__ cu,        // [B + 1]
                                         const int32_t* __restrict__ prefixes,  // [B, 2], or null
                                         float* __restrict__ o,                 // [N, H, D]
                                         float* __restrict__ lse,               // [N, H]
                                         int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim, float scale) {
    SHARED_DYNAMIC(float, s_q);  // [32, stride], then k, v the same, then p [32, 33]
    int stride = dim | 1, head = blockIdx.y, kv = head / (n_heads / n_kv_heads);
    float *s_k = s_q + CHUNK * stride, *s_v = s_k + CHUNK * stride, *s_p = s_v + CHUNK * stride;
    Tile at = tile_at<CHUNK>(cu, prefixes, n_seqs, blockIdx.x);
    if (at.rows == 0) return;
    int query = threadIdx.x / LANES;
    int64_t row = at.start + at.tile, q_stride = (int64_t)n_heads * dim, k_stride = (int64_t)n_kv_heads * dim;
    load_rows(s_q, stride, q + row * q_stride + (int64_t)head * dim, q_stride, CHUNK, at.rows, dim);
    Walk<ACC> w;
    w.open();
    int32_t before = at.prefix + at.tile, n_keys = before + at.rows;
    for (int32_t chunk = 0; chunk < n_keys; chunk += CHUNK) {
        int keys = min(CHUNK, n_keys - chunk);
        __syncthreads();  // the last chunk is read
        load_keys(s_k, stride, k + (int64_t)kv * dim, k_stride, at, chunk, keys, dim);
        load_keys(s_v, stride, v + (int64_t)kv * dim, k_stride, at, chunk, keys, dim);
        __syncthreads();  // q and the chunk stand in shared memory
        int seen = min(CHUNK, before + query + 1 - chunk);  // none where it is less than 1: the walk stays as it is
        walk_chunk(w, s_q + query * stride, s_k, s_v, s_p + query * (CHUNK + 1), stride, dim, seen, scale);
    }
    if (query >= at.rows) return;
    w.store(o + (row + query) * q_stride + (int64_t)head * dim, dim);
    if (threadIdx.x % LANES == 0) lse[(row + query) * n_heads + head] = w.max + log_f32(w.sum);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 1)
    attn_fwd_f32_d32(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
                     const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ o,
                     float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                     float scale) {
    attn_fwd<32 / LANES>(q, k, v, cu, prefixes, o, lse, n_seqs, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 1)
    attn_fwd_f32_d64(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
                     const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ o,
                     float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                     float scale) {
    attn_fwd<64 / LANES>(q, k, v, cu, prefixes, o, lse, n_seqs, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 1)
    attn_fwd_f32_d128(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
                      const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ o,
                      float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                      float scale) {
    attn_fwd<128 / LANES>(q, k, v, cu, prefixes, o, lse, n_seqs, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 1)
    attn_fwd_f32_d256(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
                      const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ o,
                      float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                      float scale) {
    attn_fwd<256 / LANES>(q, k, v, cu, prefixes, o, lse, n_seqs, n_heads, n_kv_heads, dim, scale);
}

constexpr int QUERIES = 64;  // of a bf16 tile

template <int D>
__device__ __forceinline__ void attn_fwd_bf16(const bf16* __restrict__ q,            // [N, H, D]
                                              const bf16* __restrict__ k,            // [N, Hk, D]
                                              const bf16* __restrict__ v,            // [N, Hk, D]
                                              const int32_t* __restrict__ cu,        // [B + 1]
                                              const int32_t* __restrict__ prefixes,  // [B, 2], or null
                                              bf16* __restrict__ o,                  // [N, H, D]
                                              float* __restrict__ lse,               // [N, H]
                                              int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, float scale) {
    SHARED_DYNAMIC(bf16, s_q);  // [64, D], then twice k [32, D], v [32, D]
    bf16* s_ring = s_q + QUERIES * D;
    int head = blockIdx.y, kv = head / (n_heads / n_kv_heads), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Tile at = tile_at<QUERIES>(cu, prefixes, n_seqs, blockIdx.x);
    if (at.rows == 0) return;
    int64_t row = at.start + at.tile, q_stride = (int64_t)n_heads * D, k_stride = (int64_t)n_kv_heads * D;
    int32_t before = at.prefix + at.tile, n_keys = before + at.rows;
    auto load = [&](int32_t chunk) {
        bf16* s_k = s_ring + chunk / CHUNK % 2 * 2 * CHUNK * D;
        if (chunk < n_keys) {
            load_keys<D>(s_k, k + (int64_t)kv * D, k_stride, at, chunk, n_keys - chunk);
            load_keys<D>(s_k + CHUNK * D, v + (int64_t)kv * D, k_stride, at, chunk, n_keys - chunk);
        }
        cp_async_commit();  // an empty group keeps the count
    };
    load_tile<D>(s_q, q + row * q_stride + (int64_t)head * D, q_stride, QUERIES, at.rows);
    load(0);
    int query = warp * 16 + lane / 4;
    Softmax softmax;
    softmax.open();
    float acc[D / 8][4] = {};
    for (int32_t chunk = 0; chunk < n_keys; chunk += CHUNK) {
        load(chunk + CHUNK);
        cp_async_wait<1>();
        __syncthreads();  // q and this chunk stand in shared memory
        const bf16* s_k = s_ring + chunk / CHUNK % 2 * 2 * CHUNK * D;
        float s[4][4], shrink[2];
        int seen[2] = {before + query + 1 - chunk, before + query + 9 - chunk};
        dot_rows<D>(s, s_q, warp * 16, s_k, 0);
        softmax.step(s, seen, scale, shrink);
        shrink_rows(acc, shrink);
        add_product<D>(acc, s, s_k + CHUNK * D, 0);
        __syncthreads();  // the chunk is read before its place is written again
    }
    cp_async_wait<0>();  // nothing is under way when the block ends
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int at_row = query + 8 * r;
        if (at_row >= at.rows) continue;
        float inverse = 1.0f / softmax.sum[r];
        bf16* to = o + (row + at_row) * q_stride + (int64_t)head * D + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            store_pack<2>(to + j * 8, Pack<bf16, 2>{{from_f32<bf16>(acc[j][2 * r] * inverse),
                                                     from_f32<bf16>(acc[j][2 * r + 1] * inverse)}});
        }
        if (lane % 4 == 0) lse[(row + at_row) * n_heads + head] = softmax.max[r] + log_f32(softmax.sum[r]);
    }
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_fwd_bf16_d32(const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                      const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, bf16* __restrict__ o,
                      float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t /* dim */,
                      float scale) {
    attn_fwd_bf16<32>(q, k, v, cu, prefixes, o, lse, n_seqs, n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_fwd_bf16_d64(const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                      const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, bf16* __restrict__ o,
                      float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t /* dim */,
                      float scale) {
    attn_fwd_bf16<64>(q, k, v, cu, prefixes, o, lse, n_seqs, n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_fwd_bf16_d128(const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                       const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, bf16* __restrict__ o,
                       float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t /* dim */,
                       float scale) {
    attn_fwd_bf16<128>(q, k, v, cu, prefixes, o, lse, n_seqs, n_heads, n_kv_heads, scale);
}
