// Sums and maxima across lanes, each in one fixed order: trees of halves. Every lane of the warp takes part, and
// every lane of a group ends with the group's result (x + y = y + x to the bit, so both halves of a pair agree).
#pragma once

#include "common/math.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;

// Sum over groups of LANES neighbouring lanes: halves added to each other, LANES/2, ..., 2, 1.
template <int LANES, typename X>
__device__ __forceinline__ X lanes_sum(X x) {
    static_assert(LANES <= 32 && (LANES & (LANES - 1)) == 0, "a power of two inside a warp");
#pragma unroll
    for (int half = LANES / 2; half > 0; half /= 2) x += __shfl_xor_sync(ALL_LANES, x, half);
    return x;
}

// Maximum over groups of LANES neighbouring lanes; a comparison with NaN keeps the other number.
template <int LANES>
__device__ __forceinline__ float lanes_max(float x) {
    static_assert(LANES <= 32 && (LANES & (LANES - 1)) == 0, "a power of two inside a warp");
#pragma unroll
    for (int half = LANES / 2; half > 0; half /= 2) {
        float y = __shfl_xor_sync(ALL_LANES, x, half);
        x = y > x ? y : x;
    }
    return x;
}

// Sum of a chunk's 32 addends, halves added to each other, 16, 8, 4, 2, 1. Lane l of a group of 8 holds the addends
// l, l + 8, l + 16, l + 24.
__device__ __forceinline__ float chunk_sum(const float (&p)[4]) {
    return lanes_sum<8>((p[0] + p[2]) + (p[1] + p[3]));
}

// Maximum of a chunk's 32 numbers, held like those of chunk_sum.
__device__ __forceinline__ float chunk_max(const float (&x)[4]) {
    float a = x[2] > x[0] ? x[2] : x[0], b = x[3] > x[1] ? x[3] : x[1];
    return lanes_max<8>(b > a ? b : a);
}

// The same tree over 16 lanes that four neighbouring threads hold: thread t has lanes 2t + e and 8 + 2t + e as x[0][e] and
// x[1][e]. Bits of lanes_sum<16>, and of lanes_max<16>.
__device__ __forceinline__ float quad_sum(const float (&x)[2][2]) {
    float a = x[0][0] + x[1][0], b = x[0][1] + x[1][1];
#pragma unroll
    for (int half = 2; half > 0; half /= 2) {
        a += __shfl_xor_sync(ALL_LANES, a, half);
        b += __shfl_xor_sync(ALL_LANES, b, half);
    }
    return a + b;
}

__device__ __forceinline__ float quad_max(const float (&x)[2][2]) {
    float a = x[1][0] > x[0][0] ? x[1][0] : x[0][0], b = x[1][1] > x[0][1] ? x[1][1] : x[0][1];
#pragma unroll
    for (int half = 2; half > 0; half /= 2) {
        float c = __shfl_xor_sync(ALL_LANES, a, half), d = __shfl_xor_sync(ALL_LANES, b, half);
        a = c > a ? c : a;
        b = d > b ? d : b;
    }
    return b > a ? b : a;
}

// The same tree over 16 lanes that four neighbouring threads hold as vectors: thread t has lanes 4t to 4t + 3. Bits of
// lanes_sum<16>, and of lanes_max<16>.
__device__ __forceinline__ float vector_sum(const float (&x)[4]) {
    float y[4];
#pragma unroll
    for (int e = 0; e < 4; e++) {
        y[e] = x[e] + __shfl_xor_sync(ALL_LANES, x[e], 2);
        y[e] += __shfl_xor_sync(ALL_LANES, y[e], 1);
    }
    return (y[0] + y[2]) + (y[1] + y[3]);
}

__device__ __forceinline__ float vector_max(const float (&x)[4]) {
    float a = x[2] > x[0] ? x[2] : x[0], b = x[3] > x[1] ? x[3] : x[1];
    return lanes_max<4>(b > a ? b : a);
}
