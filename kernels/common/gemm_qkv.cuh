// Three matrices of one width, side by side: the products of the same rows with each of them, by one launch. A tile has columns
// of one of them alone, so an element is the chain that a product of its own would be.
#pragma once

#include "common/gemm_normed.cuh"

// What one of the products reads and writes.
template <typename T>
struct Part {
    const T* w;     // [N, K]
    const T* bias;  // [N], null where it has none
    T* to;          // [M, N]
    int64_t n;
    int64_t j0;  // the tile's first column

    // Where the sum of an element of the tile begins.
    __device__ __forceinline__ float start(int j) const {
        return bias != nullptr && j0 + j < n ? to_f32(bias[j0 + j]) : 0.0f;
    }
    // The ends of those from column j of the tile on, of row `row` of m.
    template <int N>
    __device__ __forceinline__ void put(int64_t row, int64_t m, int j, const Pack<float, N>& x) const {
        if (row < m) store_rounded(to + row * n + j0 + j, n - j0 - j, x);
    }
    // The same of eight that are rounded, and stand in shared memory.
    __device__ __forceinline__ void put_eight(int64_t row, int64_t m, int j, const T* s_eight) const {
        if (row < m) store_16_live(to + row * n + j0 + j, n - j0 - j, s_eight);
    }
};

// q, k and v of a layer.
template <typename T>
struct Qkv {
    const T *wq, *wk, *wv;  // [Nq, K], [Nkv, K], [Nkv, K]
    const T *bq, *bk, *bv;  // [Nq], [Nkv], [Nkv], or null
    T *q, *k, *v;           // [M, Nq], [M, Nkv], [M, Nkv]
    int64_t n_q, n_kv;

    // Tiles of `columns` columns, of a row of tiles.
    __device__ __forceinline__ int64_t tiles(int columns) const { return ceil_div(n_q, columns) + 2 * ceil_div(n_kv, columns); }

    // Which of the three a tile is of.
    __device__ __forceinline__ int which(int64_t tile, int columns) const {
        int64_t of_q = ceil_div(n_q, columns), of_k = ceil_div(n_kv, columns);
        return tile < of_q ? 0 : tile < of_q + of_k ? 1 : 2;
    }

    __device__ __forceinline__ Part<T> part(int64_t tile, int columns) const {
        int64_t of_q = ceil_div(n_q, columns), of_k = ceil_div(n_kv, columns);
        switch (which(tile, columns)) {
            case 0: return {wq, bq, q, n_q, tile * columns};
            case 1: return {wk, bk, k, n_kv, (tile - of_q) * columns};
            default: return {wv, bv, v, n_kv, (tile - of_q - of_k) * columns};
        }
    }
};

// First row of this block's tile, and which tile of the row of tiles it is.
template <class Tile, typename T>
__device__ __forceinline__ int64_t qkv_tile_of_block(const Qkv<T>& all, int64_t m, int64_t& i0) {
    int64_t j0;
    tile_of_block<Tile>(m, all.tiles(Tile::N) * Tile::N, i0, j0);
    return j0 / Tile::N;
}

// A tile's sums of rows that `rows` stages, from the biases on, stored.
template <class Tile, class Rows>
__device__ __forceinline__ void gemm_qkv_bf16(Rows& rows, const Part<bf16>& part, bf16* s_ring, int64_t m, int64_t k,
                                              int64_t i0, int32_t vectors) {
    float acc[Tile::FRAGS_M][Tile::FRAGS_N][4];
    RingColumns<Tile, false> columns(part.w, part.j0, part.n, k);
    if (!gemm_bf16_sums<Tile>(acc, rows, columns, s_ring, k, vectors, [&](int, int j) { return part.start(j); })) return;
    each_two<Tile>(acc, [&](int i, int j, const Pack<float, 2>& x) { part.put(i0 + i, m, j, x); });
}

// A block's tile, of rows as they are given, or normed on the way.
template <class Tile>
__device__ __forceinline__ void gemm_qkv_of(const bf16* h, const Qkv<bf16>& all, int64_t m, int64_t k,
                                            int32_t vectors) {
    SHARED_DYNAMIC(bf16, s_ring);
    int64_t i0, tile = qkv_tile_of_block<Tile>(all, m, i0);
    RingRows<Tile, false> rows(h, i0, m, k);
    gemm_qkv_bf16<Tile>(rows, all.part(tile, Tile::N), s_ring, m, k, i0, vectors);
}

template <class Tile>
__device__ __forceinline__ void gemm_qkv_of(const Norm<bf16>& norm, const Qkv<bf16>& all, int64_t m, int64_t k,
                                            int32_t vectors) {
    SHARED_DYNAMIC(bf16, s_ring);  // [STAGES]: a tile of columns; then the rows
    int64_t i0, tile = qkv_tile_of_block<Tile>(all, m, i0);
    NormedRows<Tile> rows(norm, s_ring + Tile::STAGES * Tile::N * GEMM_K, i0, m, k, vectors);
    gemm_qkv_bf16<Tile>(rows, all.part(tile, Tile::N), s_ring, m, k, i0, vectors);
}
