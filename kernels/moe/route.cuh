// Tokens of routing: half a warp each, whose numbers stand in shared memory, so that each is read once.
#pragma once

#include "common/math.cuh"

constexpr int ROUTE_LANES = 16;
constexpr int ROUTE_ROWS = 128 / ROUTE_LANES;  // tokens of a block
constexpr int MOST_EXPERTS = 256;

// Numbers of a block's tokens, one for each expert or rank: tokens that a warp reads side by side lie in different banks.
template <typename T>
using OfTokens = T[ROUTE_ROWS][MOST_EXPERTS + ROUTE_LANES];

// x [width] into s_x, by the half warp whose token it is; the warp calls.
template <typename T>
__device__ __forceinline__ void load_token(T* s_x, const T* x, int32_t width) {
    for (int32_t i = threadIdx.x % ROUTE_LANES; i < width; i += ROUTE_LANES) s_x[i] = x[i];
}
