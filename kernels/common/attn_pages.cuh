// What attn_decode in f32 and bf16 and attn_merge share: pages, and the parts that rows of several segments leave.
//
// A row's segments are dealt to the gridDim.z blocks of its row and kv head: block z has z, z + gridDim.z, ... With one
// block a row, that block merges as it goes. With more, a row of one segment is stored by block 0; one of several leaves a
// part a segment, and attn_merge makes o of them. So o does not depend on gridDim.z.
#pragma once

#include "common/attn.cuh"

// The page of the keys from `chunk` on of a sequence, -1 where its column or itself lies outside.
__device__ __forceinline__ int32_t page_at(const int32_t* __restrict__ pages, int32_t chunk, int32_t max_pages,
                                           int32_t n_pages) {
    int32_t page = chunk / CHUNK < max_pages ? pages[chunk / CHUNK] : -1;
    return page < n_pages ? page : -1;
}

// Whether a row that sees `keys` keys leaves parts.
__device__ __forceinline__ bool leaves_parts(int32_t keys) { return gridDim.z > 1 && keys > SEGMENT; }

// Parts of rows' sums [N, H, G, 2 + D]: of a segment its maximum, its sum, its output before the division by it.
struct Parts {
    float* parts;
    int32_t n_segments;  // G
    int32_t dim;         // D

    // Whether a segment is one of those a row has at most, as attn_decode was told. Others have no place here, and
    // attn_merge makes their row NaN.
    __device__ __forceinline__ bool has(int32_t segment) const { return segment < n_segments; }

    // head_row is row * H + head.
    __device__ __forceinline__ float* of(int64_t head_row, int32_t segment) const {
        return parts + (head_row * n_segments + segment) * (2 + dim);
    }
};
