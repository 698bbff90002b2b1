// What attn_decode and attn_step share in f32 and bf16: pages, and the parts that rows of several segments leave.
//
// A row's segments are dealt to the gridDim.z blocks of its row and kv head: block z has z, z + gridDim.z, ... With one
// block a row, that block merges as it goes. With more, a row of one segment is stored by block 0; one of several leaves a
// part a segment, and the last block to come makes o of them, in the order of the segments. So o depends neither on gridDim.z
// nor on which block that is (Dao et al. 2023, "Flash-Decoding for long-context inference"; but with an order, and no launch).
#pragma once

#include "common/attn.cuh"

constexpr int TICKETS = 1024;  // before the parts: how many blocks of a row and kv head have come; all 0 between launches

// The page of the keys from `chunk` on of a sequence, -1 where its column or itself lies outside.
__device__ __forceinline__ int32_t page_at(const int32_t* __restrict__ pages, int32_t chunk, int32_t max_pages,
                                           int32_t n_pages) {
    int32_t page = chunk / CHUNK < max_pages ? pages[chunk / CHUNK] : -1;
    return page < n_pages ? page : -1;
}

// Whether a row that sees `keys` keys leaves parts.
__device__ __forceinline__ bool leaves_parts(int32_t keys) { return gridDim.z > 1 && keys > SEGMENT; }

// Parts of rows' sums [N, H, G, 2 + D], behind the tickets: of a segment its maximum, its sum, its output before the division
// by it.
struct Parts {
    float* workspace;
    int32_t n_segments;  // G
    int32_t dim;         // D

    // Whether a segment is one of those a row has at most, as attn_decode was told. Others have no place here, and
    // their row becomes NaN.
    __device__ __forceinline__ bool has(int32_t segment) const { return segment < n_segments; }

    // head_row is row * H + head.
    __device__ __forceinline__ float* of(int64_t head_row, int32_t segment) const {
        return workspace + TICKETS + (head_row * n_segments + segment) * (2 + dim);
    }

    // True for the whole of the block that is the last to come with its parts of `keys` keys, of this row and kv head; what the
    // others stored it sees. The block's threads come together.
    __device__ __forceinline__ bool all_are_there(int32_t keys) const {
        __shared__ bool s_last;
        unsigned* came = reinterpret_cast<unsigned*>(workspace) + blockIdx.x * gridDim.y + blockIdx.y;
        __threadfence();
        __syncthreads();  // this block's parts are there for all
        if (threadIdx.x == 0) {
            s_last = atomicAdd(came, 1u) + 1 == min(gridDim.z, (unsigned)ceil_div(keys, SEGMENT));
            if (s_last) *came = 0;
        }
        __syncthreads();  // s_last is set
        __threadfence();
        return s_last;
    }

    // o [D] of `row`, its `heads` heads from `head` on, by all threads of the block; rows of one segment keep theirs.
    template <class T>
    __device__ __forceinline__ void merge(T* o, int64_t row, int32_t keys, int32_t n_heads, int32_t head, int32_t heads) const {
        int32_t n = (int32_t)ceil_div(keys, SEGMENT);
        if (n == 1) return;
        for (int i = threadIdx.x; i < heads * dim; i += blockDim.x) {
            int64_t head_row = row * n_heads + head + i / dim;
            const float* part = of(head_row, 0);
            float max = part[0], sum = part[1], x = part[2 + i % dim];
#pragma unroll 4
            for (int32_t segment = 1; segment < min(n, n_segments); segment++) {
                part += 2 + dim;
                Merge by = merge_segment<T>(max, sum, part[0], part[1]);
                x = fmaf(part[2 + i % dim], by.part, x * by.total);
            }
            if (!has(n - 1)) sum = __uint_as_float(0x7fc00000u);
            o[head_row * dim + i % dim] = from_f32<T>(x * (1.0f / sum));
        }
    }
};
