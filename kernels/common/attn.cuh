// What the attention kernels share: where a tile of queries lies.
#pragma once

#include "common/types.cuh"

constexpr int CHUNK = 32;  // keys walked at a time, slots of a page

// Queries tile .. tile + rows of a sequence of len rows that starts at row start; rows is 0 where there is none.
struct Tile {
    int64_t start;
    int32_t len;
    int32_t tile;
    int32_t rows;
};

// Tile number slot of cu_seqlens [B + 1], in tiles of ROWS. Sequence s owns slots from cu[s] / ROWS + s on: never fewer
// than it has tiles, so that no list of tiles is needed; spare slots have no rows.
template <int ROWS>
__device__ __forceinline__ Tile tile_at(const int32_t* __restrict__ cu, int32_t n_seqs, int64_t slot) {
    int32_t low = 0, high = n_seqs;
    while (high - low > 1) {
        int32_t middle = (low + high) / 2;
        if (cu[middle] / ROWS + middle <= slot) {
            low = middle;
        } else {
            high = middle;
        }
    }
    int32_t len = cu[low + 1] - cu[low];
    int32_t tile = (int32_t)(slot - (cu[low] / ROWS + low)) * ROWS;
    int32_t rows = len - tile;
    return {cu[low], len, tile, rows < 0 ? 0 : rows < ROWS ? rows : ROWS};
}
