// attn_fwd_bf16   o = softmax(scale q k^T) v, causal inside each sequence
//
// Shapes          q, o [N, H, D], k, v [N, Hk, D] bf16   cu_seqlens [B + 1] i32
//                 prefixes [B, 2] i32 or null (common/attn.cuh)   lse [N, H] f32, all packed
// Numerics        tensor cores, D of 32, 64, 128; probabilities rounded to bf16 for p v alone. Online softmax over chunks
//                 of 32 keys, segments of 512 merged in order from the sequence's start (common/attn.cuh).
// Parallel        one block a tile of 64 queries of one head, a warp 16; the next chunk comes by cp.async while this one
//                 is worked on.
// Cost            4 D FLOP a query, head and key it sees; reads q, writes o once, reads k and v once a tile.
// Determinism     a token's bits depend on its sequence up to it alone, wherever its prefix lies: those of
//                 attn_decode_bf16.
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Source          Dao et al. 2022, arXiv:2205.14135, alg. 1.
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_bf16.cuh"
#include "common/shared.cuh"

constexpr int QUERIES = 64;  // of a tile

template <int D>
__device__ __forceinline__ void attn_fwd(const bf16* __restrict__ q,            // [N, H, D]
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
    Total<D / 8> total = {};
    for (int32_t segment = 0; segment < n_keys; segment += SEGMENT) {
        Softmax softmax;
        softmax.open();
        float acc[D / 8][4] = {};
        int32_t end = min(n_keys, segment + SEGMENT);
        for (int32_t chunk = segment; chunk < end; chunk += CHUNK) {
            load(chunk + CHUNK);
            cp_async_wait<1>();
            __syncthreads();  // q and this chunk stand in shared memory
            const bf16* s_k = s_ring + chunk / CHUNK % 2 * 2 * CHUNK * D;
            float s[4][4], rescale[2];
            int seen[2] = {before + query + 1 - chunk, before + query + 9 - chunk};
            dot_rows<D>(s, s_q, warp * 16, s_k, 0);
            softmax.step(s, seen, scale, rescale);
            rescale_rows(acc, rescale);
            add_product<D>(acc, s, s_k + CHUNK * D, 0);
            __syncthreads();  // the chunk is read before its place is written again
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            // Else the row sees nothing of this segment.
            if (before + query + 8 * r >= segment) total.add(r, softmax, acc, segment == 0);
        }
    }
    cp_async_wait<0>();  // nothing is under way when the block ends
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int at_row = query + 8 * r;
        if (at_row >= at.rows) continue;
        const Softmax& softmax = total.softmax;
        bf16* to = o + (row + at_row) * q_stride + (int64_t)head * D + lane % 4 * 2;
        store_row(to, total.acc, r, 1.0f / softmax.sum[r]);
        if (lane % 4 == 0) lse[(row + at_row) * n_heads + head] = softmax.lse(r);
    }
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_fwd_bf16_d32(const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                      const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, bf16* __restrict__ o,
                      float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t /* dim */,
                      float scale) {
    attn_fwd<32>(q, k, v, cu, prefixes, o, lse, n_seqs, n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_fwd_bf16_d64(const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                      const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, bf16* __restrict__ o,
                      float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t /* dim */,
                      float scale) {
    attn_fwd<64>(q, k, v, cu, prefixes, o, lse, n_seqs, n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_fwd_bf16_d128(const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                       const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, bf16* __restrict__ o,
                       float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t /* dim */,
                       float scale) {
    attn_fwd<128>(q, k, v, cu, prefixes, o, lse, n_seqs, n_heads, n_kv_heads, scale);
}
