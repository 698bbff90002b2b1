// Floats as integers of the same order.
#pragma once

#include "common/types.cuh"

// Larger numbers have larger ranks; both zeros are one.
__device__ __forceinline__ int32_t rank_f32(float z) {
    int32_t bits = (int32_t)__float_as_uint(z + 0.0f);
    return bits ^ (int32_t)((uint32_t)(bits >> 31) >> 1);
}

// The number of a rank.
__device__ __forceinline__ float unrank_f32(int32_t rank) {
    return __uint_as_float((uint32_t)(rank ^ (int32_t)((uint32_t)(rank >> 31) >> 1)));
}
