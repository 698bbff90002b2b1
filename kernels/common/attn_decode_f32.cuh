// Attention in f32 of rows over the pages of their sequences: what attn_decode_f32 and attn_step_f32 share. Where a row's queries
// come from says `Source`.
#pragma once

#include "common/attn_f32.cuh"
#include "common/attn_step.cuh"
#include "common/dependent.cuh"
#include "common/shared.cuh"

constexpr int QUERIES = 16;  // heads of a group that walk together

// Queries [N, H, D] that are there already.
struct GivenRows {
    const float* __restrict__ q;
    static constexpr bool NEW = false;

    __device__ __forceinline__ void stage(float* s_q, int stride, float*, const RowAt& at, int first, int n, int dim) const {
        load_rows(s_q, stride, q + (at.row * at.n_heads + first) * dim, dim, QUERIES, n, dim);
    }
};

// Queries of rows that are new, see common/attn_step.cuh.
struct NewRowsF32 : NewRows<float> {
    static constexpr bool NEW = true;

    __device__ __forceinline__ void stage(float* s_q, int stride, float* s_free, const RowAt& at, int first, int n,
                                          int dim) const {
        for (int i = n * dim + threadIdx.x; i < QUERIES * dim; i += blockDim.x) s_q[i / dim * stride + i % dim] = 0.0f;
        NewRows<float>::stage<1>(s_free, at, first, n, dim, [=](int32_t i, int32_t d) { return s_q + i * stride + d; });
    }
};

template <int ACC, class Source>
__device__ __forceinline__ void attn_decode(const Source& source, const float* k_pages,  // [P, Hk, S, D]
                                            const float* v_pages,                        // [P, Hk, S, D]
                                            const int32_t* __restrict__ seq,    // [N]
                                            const int32_t* __restrict__ pos,    // [N]
                                            const int32_t* __restrict__ table,  // [B, max_pages]
                                            float* __restrict__ o,              // [N, H, D]
                                            Parts parts, int32_t max_pages, int32_t n_pages, int32_t n_heads,
                                            int32_t n_kv_heads, int32_t dim, float scale) {
    SHARED_DYNAMIC(float, s_q);  // [16, stride], then k, v [32, stride], then p [16, P_STRIDE]
    int stride = dim | 1, group = n_heads / n_kv_heads, kv = blockIdx.y, query = threadIdx.x / LANES;
    float *s_k = s_q + QUERIES * stride, *s_v = s_k + CHUNK * stride, *s_p = s_v + CHUNK * stride;
    int64_t row = blockIdx.x;
    const int32_t* pages = table + (int64_t)seq[row] * max_pages;
    int32_t n_keys = pos[row] + 1, n_segments = (int32_t)ceil_div(n_keys, SEGMENT);
    if ((int32_t)blockIdx.z >= n_segments) return;
    await_predecessors();  // queries, keys and values are projected
    int32_t new_page = Source::NEW ? page_at(pages, pos[row], max_pages, n_pages) : -1;
    for (int first = 0; first < group; first += QUERIES) {
        int heads = min(QUERIES, group - first);
        int64_t head_row = row * n_heads + kv * group + first;
        __syncthreads();  // the last heads' q is read
        bool appends = first == 0 && (n_segments - 1) % (int32_t)gridDim.z == (int32_t)blockIdx.z;
        RowAt at = {row, kv, pos[row], new_page, n_heads, n_kv_heads, appends};
        source.stage(s_q, stride, s_k, at, kv * group + first, heads, dim);
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
                walk_chunk(w, s_q + query * stride, s_k, s_v, s_p + query * P_STRIDE, stride, dim, keys, scale);
            }
            if (!leaves_parts(n_keys)) {
                total.add(w, segment == 0);
            } else if (query < heads && parts.has(segment)) {
                w.store_part(parts.of(head_row + query, segment), dim);
            }
        }
        if (query < heads && !leaves_parts(n_keys)) total.store(o + (head_row + query) * dim, dim);
    }
    if (leaves_parts(n_keys) && parts.all_are_there(n_keys)) parts.merge(o, row, n_keys, n_heads, kv * group, group);
}
