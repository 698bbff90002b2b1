// Products of rows that stand group by group, each group's with its own matrix: c_r = a_r b_e, or += , for rows r of group e.
//
// offsets [E + 1] say where groups begin. Groups are cut into tiles, an empty one into none, and blocks find their tile
// by walking the offsets on the device: the host launches as many blocks as there can be tiles, and those past the last
// one end at once. An element is the chain of common/gemm_f32.cuh or common/gemm_bf16.cuh on its row, its column and its
// group's matrix: so its bits see neither how many rows the group has nor where the row stands in it.
#pragma once

#include "common/gemm_bf16.cuh"
#include "common/gemm_f32.cuh"
#include "common/reduce.cuh"

// A tile of a group: the group's first row and number of rows, the tile's first row in it.
struct GroupTile {
    int32_t group;  // -1: past the last tile
    int32_t first, rows, i0;
};

// Tile number `tile` of groups that are cut into tiles of ROWS rows. Every lane of the warp takes part, and has it.
template <int ROWS>
__device__ __forceinline__ GroupTile group_tile(const int32_t* offsets,  // [E + 1]
                                                int32_t n_groups, int32_t tile) {
    int lane = threadIdx.x % 32;
    for (int32_t base = 0; base < n_groups; base += 32) {
        int32_t group = base + lane;
        bool live = group < n_groups;
        int32_t from = live ? offsets[group] : 0, rows = live ? offsets[group + 1] - from : 0;
        int32_t tiles = (rows + ROWS - 1) / ROWS, end = tiles;
#pragma unroll
        for (int by = 1; by < 32; by *= 2) {
            int32_t before = __shfl_up_sync(ALL_LANES, end, by);
            if (lane >= by) end += before;
        }
        // The first group that ends past the tile holds it.
        unsigned past = __ballot_sync(ALL_LANES, tile < end);
        if (past != 0) {
            int owner = __ffs(past) - 1;
            int32_t begin = __shfl_sync(ALL_LANES, end - tiles, owner);
            return {base + owner, __shfl_sync(ALL_LANES, from, owner), __shfl_sync(ALL_LANES, rows, owner),
                    (tile - begin) * ROWS};
        }
        tile -= __shfl_sync(ALL_LANES, end, 31);
    }
    return {-1, 0, 0, 0};
}

// Block x has tile x / ceil(N / BN) of the rows, and columns x % ceil(N / BN) BN..
template <bool B_BY_K, int BM, int BN>
__device__ __forceinline__ void gemm_grouped_f32(const float* a,          // [R, K]
                                                 const float* __restrict__ b,          // [E, N, K], or [E, K, N] when B_BY_K
                                                 const int32_t* offsets,  // [E + 1]
                                                 float* c,                             // [R, N], = or +=
                                                 int32_t n_groups, int64_t n, int64_t k, int32_t add) {
    await_predecessors();  // also of the offsets
    int32_t across = (int32_t)ceil_div(n, BN);
    GroupTile t = group_tile<BM>(offsets, n_groups, blockIdx.x / across);
    if (t.group < 0) return;
    gemm_f32_tile<false, B_BY_K, BM, BN>(a + t.first * k, b + t.group * n * k, c + t.first * n, t.rows, n, k, add, t.i0,
                                         (int64_t)(blockIdx.x % across) * BN);
}

template <class Tile, bool B_BY_K>
__device__ __forceinline__ void gemm_grouped_bf16(const bf16* a,           // [R, K]
                                                  const bf16* __restrict__ b,           // [E, N, K], or [E, K, N] when B_BY_K
                                                  const int32_t* offsets,  // [E + 1]
                                                  bf16* c,                              // [R, N], = or +=
                                                  int32_t n_groups, int64_t n, int64_t k, int32_t add,
                                                  int32_t vectors) {
    await_predecessors();  // also of the offsets
    int32_t across = (int32_t)ceil_div(n, Tile::N);
    GroupTile t = group_tile<Tile::M>(offsets, n_groups, blockIdx.x / across);
    if (t.group < 0) return;
    gemm_bf16_tile<Tile, false, B_BY_K>(a + t.first * k, b + t.group * n * k, c + t.first * n, t.rows, n, k, add, vectors,
                                        t.i0, (int64_t)(blockIdx.x % across) * Tile::N);
}

// Where block x works when each group has a whole matrix [M, N] of C: tiles of BM x BN, group by group, row by row.
template <int BM, int BN>
__device__ __forceinline__ GroupTile group_of_block(const int32_t* offsets,  // [E + 1]
                                                    int64_t m, int64_t n, int64_t& j0) {
    int32_t down = (int32_t)ceil_div(m, BM), across = (int32_t)ceil_div(n, BN), tile = blockIdx.x % (down * across);
    int32_t group = blockIdx.x / (down * across), from = offsets[group];
    j0 = (int64_t)(tile % across) * BN;
    return {group, from, offsets[group + 1] - from, tile / across * BM};
}
