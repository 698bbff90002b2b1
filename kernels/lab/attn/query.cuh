// A warp that has one query of one head: what rungs v1 and v2 of attention share.
//
// A lane has a key, when scores are made, and the elements lane, lane + 32, ... of the output, when values are added up.
#pragma once

#include "common/attn.cuh"
#include "common/reduce.cuh"

constexpr int QUERIES = 4;  // of a block, a warp each
constexpr int MOST = 4;     // elements of o that a lane has: D of 128

// A query: its row [N, H], how many keys it sees, where it lies, where the first key of its sequence lies, elements from key to
// key. It sees none where there is no such query.
struct Query {
    int64_t row, q_at, k_at, k_stride;
    int32_t n_keys;
};

__device__ __forceinline__ Query query_of_warp(const int32_t* __restrict__ cu, int32_t n_seqs, int32_t n_heads,
                                               int32_t n_kv_heads, int32_t dim) {
    int head = blockIdx.y, kv = head / (n_heads / n_kv_heads);
    Tile at = tile_at<1>(cu, nullptr, n_seqs, (int64_t)blockIdx.x * QUERIES + threadIdx.x / 32);
    int64_t row = (at.start + at.tile) * n_heads + head, k_stride = (int64_t)n_kv_heads * dim;
    return {row, row * dim, at.start * k_stride + (int64_t)kv * dim, k_stride, at.rows == 0 ? 0 : at.tile + 1};
}

// One key's product with the query, d ascending.
__device__ __forceinline__ float dot_key(const bf16* __restrict__ q, const bf16* __restrict__ k, int dim) {
    float dot = 0.0f;
    for (int d = 0; d < dim; d++) dot = fmaf(to_f32(q[d]), to_f32(k[d]), dot);
    return dot;
}

// acc += p times a value's elements of this lane.
__device__ __forceinline__ void add_value(float (&acc)[MOST], float p, const bf16* __restrict__ v, int dim) {
#pragma unroll
    for (int r = 0; r < MOST; r++) {
        int d = threadIdx.x % 32 + 32 * r;
        if (d < dim) acc[r] = fmaf(p, to_f32(v[d]), acc[r]);
    }
}

// o = acc / sum, lse = max + ln sum.
__device__ __forceinline__ void store_query(bf16* o, float* lse, const float (&acc)[MOST], float max, float sum, int dim) {
    float factor = 1.0f / sum;
#pragma unroll
    for (int r = 0; r < MOST; r++) {
        int d = threadIdx.x % 32 + 32 * r;
        if (d < dim) o[d] = from_f32<bf16>(acc[r] * factor);
    }
    if (threadIdx.x % 32 == 0) *lse = max + log_f32(sum);
}
