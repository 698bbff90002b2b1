// attn_fwd_f32    o = softmax(scale q k^T) v, causal inside each sequence
//
// Shapes          q, o [N, H, D], k, v [N, Hk, D] f32   cu_seqlens [B + 1] i32
//                 prefixes [B, 2] i32 or null (common/attn.cuh)   lse [N, H] f32, all packed
// Numerics        CUDA cores, any D up to 256. Online softmax over chunks of 32 keys, segments of 512 merged in order from
//                 the sequence's start (common/attn.cuh).
// Parallel        one block a tile of 32 queries of one head, eight lanes a query.
// Cost            4 D FLOP a query, head and key it sees; reads q, writes o once, reads k and v once a tile.
// Determinism     a token's bits depend on its sequence up to it alone, wherever its prefix lies: those of attn_decode_f32
//                 and of the CPU device (lse: within the rounding of a logarithm).
// Source          Dao et al. 2022, arXiv:2205.14135, alg. 1.
// Oracle          src/ops/attn/oracle.rs
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
    SHARED_DYNAMIC(float, s_q);  // [32, stride], then k, v the same, then p [32, P_STRIDE]
    int stride = dim | 1, head = blockIdx.y, kv = head / (n_heads / n_kv_heads);
    float *s_k = s_q + CHUNK * stride, *s_v = s_k + CHUNK * stride, *s_p = s_v + CHUNK * stride;
    Tile at = tile_at<CHUNK>(cu, prefixes, n_seqs, blockIdx.x);
    if (at.rows == 0) return;
    int query = threadIdx.x / LANES;
    int64_t row = at.start + at.tile, q_stride = (int64_t)n_heads * dim, k_stride = (int64_t)n_kv_heads * dim;
    load_rows(s_q, stride, q + row * q_stride + (int64_t)head * dim, q_stride, CHUNK, at.rows, dim);
    Walk<ACC> total;
    total.open();
    int32_t before = at.prefix + at.tile, n_keys = before + at.rows;
    for (int32_t segment = 0; segment < n_keys; segment += SEGMENT) {
        Walk<ACC> w;
        w.open();
        int32_t end = min(n_keys, segment + SEGMENT);
        for (int32_t chunk = segment; chunk < end; chunk += CHUNK) {
            int keys = min(CHUNK, end - chunk);
            __syncthreads();  // the last chunk is read
            load_keys(s_k, stride, k + (int64_t)kv * dim, k_stride, at, chunk, keys, dim);
            load_keys(s_v, stride, v + (int64_t)kv * dim, k_stride, at, chunk, keys, dim);
            __syncthreads();  // q and the chunk stand in shared memory
            int seen = min(CHUNK, before + query + 1 - chunk);  // none where it is less than 1
            walk_chunk(w, s_q + query * stride, s_k, s_v, s_p + query * P_STRIDE, stride, dim, seen, scale);
        }
        if (before + query >= segment) total.add(w, segment == 0);  // else it sees nothing of this segment
    }
    if (query >= at.rows) return;
    total.store(o + (row + query) * q_stride + (int64_t)head * dim, dim);
    if (threadIdx.x % LANES == 0) lse[(row + query) * n_heads + head] = total.max + log_f32(total.sum);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 2)
    attn_fwd_f32_d32(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
                     const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ o,
                     float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                     float scale) {
    attn_fwd<32 / LANES>(q, k, v, cu, prefixes, o, lse, n_seqs, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 2)
    attn_fwd_f32_d64(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
                     const int32_t* __restrict__ cu, const int32_t* __restrict__ prefixes, float* __restrict__ o,
                     float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                     float scale) {
    attn_fwd<64 / LANES>(q, k, v, cu, prefixes, o, lse, n_seqs, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(CHUNK * LANES, 2)
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
