// attn_decode_f32 o = softmax(scale q k^T) v over the keys 0 .. pos of the row's sequence, which stand in pages
//
// Shapes          q, o [N, H, D], k_pages, v_pages [P, Hk, S, D] f32, S = 32   seq, pos [N] i32
//                 table [B, max_pages] i32   parts: common/attn_pages.cuh, null with one block a row
// Numerics        as attn_fwd_f32; a page is a chunk.
// Parallel        a block a row, kv head and every gridDim.z-th segment, the group's query heads together; eight lanes a
//                 head.
// Cost            4 D FLOP a row, head and key; reads 2 Hk D elements a row and key. Memory bound.
// Determinism     a row's bits depend on its sequence up to it alone: those of attn_fwd_f32 and of the CPU device.
// Requires        pages in 0..P; a row with another page becomes NaN.
// Source          Dao et al. 2022, arXiv:2205.14135, alg. 1; Kwon et al. 2023, arXiv:2309.06180 (pages).
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_f32.cuh"
#include "common/attn_pages.cuh"
#include "common/shared.cuh"

constexpr int QUERIES = 16;  // heads of a group that walk together

template <int ACC>
__device__ __forceinline__ void attn_decode(const float* __restrict__ q,        // [N, H, D]
                                            const float* __restrict__ k_pages,  // [P, Hk, S, D]
                                            const float* __restrict__ v_pages,  // [P, Hk, S, D]
                                            const int32_t* __restrict__ seq,    // [N]
                                            const int32_t* __restrict__ pos,    // [N]
                                            const int32_t* __restrict__ table,  // [B, max_pages]
                                            float* __restrict__ o,              // [N, H, D]
                                            Parts parts, int32_t max_pages, int32_t n_pages, int32_t n_heads,
                                            int32_t n_kv_heads, int32_t dim, float scale) {
    SHARED_DYNAMIC(float, s_q);  // [16, stride], then k, v [32, stride], then p [16, 33]
    int stride = dim | 1, group = n_heads / n_kv_heads, kv = blockIdx.y, query = threadIdx.x / LANES;
    float *s_k = s_q + QUERIES * stride, *s_v = s_k + CHUNK * stride, *s_p = s_v + CHUNK * stride;
    int64_t row = blockIdx.x;
    const int32_t* pages = table + (int64_t)seq[row] * max_pages;
    int32_t n_keys = pos[row] + 1, n_segments = (int32_t)ceil_div(n_keys, SEGMENT);
    if ((int32_t)blockIdx.z >= n_segments) return;
    for (int first = 0; first < group; first += QUERIES) {
        int heads = min(QUERIES, group - first);
        int64_t head_row = row * n_heads + kv * group + first;
        __syncthreads();  // the last heads' q is read
        load_rows(s_q, stride, q + head_row * dim, dim, QUERIES, heads, dim);
        Walk<ACC> total;
        total.open();
        for (int32_t segment = blockIdx.z; segment < n_segments; segment += gridDim.z) {
            Walk<ACC> w;
            w.open();
            int32_t end = min(n_keys, (segment + 1) * SEGMENT);
            for (int32_t chunk = segment * SEGMENT; chunk < end; chunk += CHUNK) {
                int keys = min(CHUNK, end - chunk);
                int32_t page = page_at(pages, chunk, max_pages, n_pages);
                int64_t from = ((int64_t)max(page, 0) * n_kv_heads + kv) * CHUNK * dim;
                __syncthreads();  // the last chunk is read
                load_rows(s_k, stride, k_pages + from, dim, CHUNK, keys, dim);
                load_rows(s_v, stride, v_pages + from, dim, CHUNK, keys, dim);
                __syncthreads();  // q and the chunk stand in shared memory
                if (page < 0) w.sum = __uint_as_float(0x7fc00000u);
                walk_chunk(w, s_q + query * stride, s_k, s_v, s_p + query * (CHUNK + 1), stride, dim, keys, scale);
            }
            if (!leaves_parts(n_keys)) {
                total.add(w, segment == 0);
            } else if (query < heads && parts.has(segment)) {
                w.store_part(parts.of(head_row + query, segment), dim);
            }
        }
        if (query < heads && !leaves_parts(n_keys)) total.store(o + (head_row + query) * dim, dim);
    }
}

extern "C" __global__ void __launch_bounds__(QUERIES * LANES, 5)
    attn_decode_f32_d32(const float* __restrict__ q, const float* __restrict__ k_pages,
                        const float* __restrict__ v_pages, const int32_t* __restrict__ seq,
                        const int32_t* __restrict__ pos, const int32_t* __restrict__ table, float* __restrict__ o,
                        float* __restrict__ parts, int64_t /* n_rows */, int32_t max_pages,
                        int32_t n_pages, int32_t n_segments, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                        float scale) {
    attn_decode<32 / LANES>(q, k_pages, v_pages, seq, pos, table, o, Parts{parts, n_segments, dim}, max_pages,
                            n_pages, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(QUERIES * LANES, 5)
    attn_decode_f32_d64(const float* __restrict__ q, const float* __restrict__ k_pages,
                        const float* __restrict__ v_pages, const int32_t* __restrict__ seq,
                        const int32_t* __restrict__ pos, const int32_t* __restrict__ table, float* __restrict__ o,
                        float* __restrict__ parts, int64_t /* n_rows */, int32_t max_pages,
                        int32_t n_pages, int32_t n_segments, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                        float scale) {
    attn_decode<64 / LANES>(q, k_pages, v_pages, seq, pos, table, o, Parts{parts, n_segments, dim}, max_pages,
                            n_pages, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(QUERIES * LANES, 4)
    attn_decode_f32_d128(const float* __restrict__ q, const float* __restrict__ k_pages,
                         const float* __restrict__ v_pages, const int32_t* __restrict__ seq,
                         const int32_t* __restrict__ pos, const int32_t* __restrict__ table, float* __restrict__ o,
                         float* __restrict__ parts, int64_t /* n_rows */, int32_t max_pages,
                         int32_t n_pages, int32_t n_segments, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                         float scale) {
    attn_decode<128 / LANES>(q, k_pages, v_pages, seq, pos, table, o, Parts{parts, n_segments, dim}, max_pages,
                             n_pages, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(QUERIES * LANES, 1)
    attn_decode_f32_d256(const float* __restrict__ q, const float* __restrict__ k_pages,
                         const float* __restrict__ v_pages, const int32_t* __restrict__ seq,
                         const int32_t* __restrict__ pos, const int32_t* __restrict__ table, float* __restrict__ o,
                         float* __restrict__ parts, int64_t /* n_rows */, int32_t max_pages,
                         int32_t n_pages, int32_t n_segments, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                         float scale) {
    attn_decode<256 / LANES>(q, k_pages, v_pages, seq, pos, table, o, Parts{parts, n_segments, dim}, max_pages,
                             n_pages, n_heads, n_kv_heads, dim, scale);
}
