// Fragments of mma.sync m16n8k16 from tiles in shared memory.
//
// A tile is rows of CHUNKS chunks; a chunk is eight neighbouring bf16, 16 bytes. Chunks are swizzled so that the eight
// rows of an ldmatrix lie in different banks. "Transposed": the tile is stored the other way, K by K.
#pragma once

#include "common/ptx.cuh"

// Where chunk `chunk` of row `row` stands.
template <int CHUNKS>
__device__ __forceinline__ int swizzled(int row, int chunk) {
    constexpr int WAYS = CHUNKS < 8 ? CHUNKS : 8;
    return row * CHUNKS + (chunk ^ (row / (8 / WAYS) % WAYS));
}

// A's fragment (16 x 16) of rows i0.., steps q0.. of a tile [M, K].
template <int CHUNKS>
__device__ __forceinline__ void frag_a(uint32_t (&x)[4], const bf16* s, int i0, int q0) {
    int lane = threadIdx.x % 32;
    ldmatrix_x4(x, s + 8 * swizzled<CHUNKS>(i0 + lane % 16, q0 / 8 + lane / 16));
}

// B's two fragments (16 x 8) of columns j0.. and j0 + 8.., steps q0.. of a tile [N, K].
template <int CHUNKS>
__device__ __forceinline__ void frag_b(uint32_t (&x)[2][2], const bf16* s, int j0, int q0) {
    int lane = threadIdx.x % 32;
    uint32_t y[4];
    ldmatrix_x4(y, s + 8 * swizzled<CHUNKS>(j0 + lane / 16 * 8 + lane % 8, q0 / 8 + lane / 8 % 2));
    x[0][0] = y[0], x[0][1] = y[1], x[1][0] = y[2], x[1][1] = y[3];
}

// The same of a tile [K, N].
template <int CHUNKS>
__device__ __forceinline__ void frag_b_transposed(uint32_t (&x)[2][2], const bf16* s, int j0, int q0) {
    int lane = threadIdx.x % 32;
    uint32_t y[4];
    ldmatrix_x4_trans(y, s + 8 * swizzled<CHUNKS>(q0 + lane / 8 % 2 * 8 + lane % 8, j0 / 8 + lane / 16));
    x[0][0] = y[0], x[0][1] = y[1], x[1][0] = y[2], x[1][1] = y[3];
}

// Two numbers rounded to bf16, the first in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    Pack<bf16, 2> pair = {{from_f32<bf16>(low), from_f32<bf16>(high)}};
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}
