// Products of the same rows with two matrices of one shape, gate and up, in one tile: its columns j and j + N/2 are the same
// column of the two. A thread has both sums of an element, so what is made of the two needs no second pass.
//
// Each sum is the chain of common/gemm_bf16.cuh or common/gemm_f32.cuh on its row and its column.
#pragma once

#include "common/gemm_normed.cuh"

// The columns j0.. of both, half a tile each.
template <class Tile>
struct PairColumns {
    static_assert(Tile::PAIR == 2, "an ldmatrix loads eight columns of each");
    using Operand = OperandTile<false, Tile::N / 2>;
    static constexpr int HALF = Tile::N / 2 * GEMM_K;  // elements of a slot
    typename Operand::template Copies<Tile::THREADS> gates, ups;
    const bf16* __restrict__ gate;  // [N, K]
    const bf16* __restrict__ up;    // [N, K]
    int64_t j0, n, k;

    __device__ __forceinline__ PairColumns(const bf16* __restrict__ gate, const bf16* __restrict__ up, int64_t j0,
                                           int64_t n, int64_t k)
        : gates(gate, j0, n, k), ups(up, j0, n, k), gate(gate), up(up), j0(j0), n(n), k(k) {}
    __device__ __forceinline__ void start(bf16* s_slot) {
        gates.start(s_slot);
        ups.start(s_slot + HALF);
    }
    __device__ __forceinline__ void prefetch() const {
        Operand::template prefetch<Tile::THREADS>(gate, j0, n, k, GEMM_EARLY / Tile::N);
        Operand::template prefetch<Tile::THREADS>(up, j0, n, k, GEMM_EARLY / Tile::N);
    }
    __device__ __forceinline__ void load(bf16* s_slot, int step) {
        Operand::template load<Tile::THREADS>(s_slot, gate, j0, n, (int64_t)step * GEMM_K, k);
        Operand::template load<Tile::THREADS>(s_slot + HALF, up, j0, n, (int64_t)step * GEMM_K, k);
    }
    // See RingColumns: fragment 2 j is gate's, 2 j + 1 up's of the same columns.
    __device__ __forceinline__ static int at(int wj, int j) { return Operand::b_at(wj / 2 + j * 8, Tile::N / 2); }
};

// Calls f(row of the tile, column of either matrix from j0 on, gate's sums of it and of the next, up's) for this lane's elements.
template <class Tile, class F>
__device__ __forceinline__ void each_pair(const float (&acc)[Tile::FRAGS_M][Tile::FRAGS_N][4], F f) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int i0 = warp / Tile::WARPS_N * Tile::FRAGS_M * 16 + lane / 4;
    int j0 = warp % Tile::WARPS_N * Tile::FRAGS_N * 4 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < Tile::FRAGS_M; i++) {
#pragma unroll
        for (int j = 0; j < Tile::FRAGS_N; j += 2) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float(&gate)[4] = acc[i][j], (&up)[4] = acc[i][j + 1];
                f(i0 + i * 16 + r * 8, j0 + j * 4, Pack<float, 2>{{gate[2 * r], gate[2 * r + 1]}},
                  Pack<float, 2>{{up[2 * r], up[2 * r + 1]}});
            }
        }
    }
}

// The outputs of a pair: h = silu(gate) up, of gate and up as they are stored or, where nobody needs them, would be.
template <typename T>
struct Swiglu {
    T* gate;  // [M, N], null when not kept
    T* up;    // [M, N], the same
    T* h;     // [M, N]
    int64_t m, n;

    // h of sums of gate and up.
    template <int N>
    __device__ __forceinline__ static Pack<T, N> of(const Pack<float, N>& gate_sums, const Pack<float, N>& up_sums) {
        Pack<float, N> x;
#pragma unroll
        for (int e = 0; e < N; e++) {
            x.v[e] = swiglu_f32(to_f32(from_f32<T>(gate_sums.v[e])), to_f32(from_f32<T>(up_sums.v[e])));
        }
        return rounded<T>(x);
    }

    // Stores values of one of the three from a column on.
    template <int N>
    __device__ __forceinline__ void store(T* to, int64_t row, int64_t column, const Pack<T, N>& x) const {
        if (row < m) store_live(to + row * n + column, n - column, x);
    }

    // Of the sums from a column on.
    template <int N>
    __device__ __forceinline__ void put(int64_t row, int64_t column, const Pack<float, N>& gate_sums,
                                        const Pack<float, N>& up_sums) const {
        if (gate != nullptr) {
            store(gate, row, column, rounded<T>(gate_sums));
            store(up, row, column, rounded<T>(up_sums));
        }
        store(h, row, column, of(gate_sums, up_sums));
    }
};

// Stores what this lane's sums of a tile make.
template <class Tile>
__device__ __forceinline__ void put_pairs(const float (&acc)[Tile::FRAGS_M][Tile::FRAGS_N][4], const Swiglu<bf16>& to,
                                          int64_t i0, int64_t j0) {
    each_pair<Tile>(acc, [&](int i, int j, const Pack<float, 2>& gate, const Pack<float, 2>& up) {
        to.put(i0 + i, j0 + j, gate, up);
    });
}

// A tile's sums of rows that `rows` stages, stored.
template <class Tile, class Rows>
__device__ __forceinline__ void gemm_swiglu_bf16(Rows& rows, const bf16* __restrict__ wg, const bf16* __restrict__ wu,
                                                 const Swiglu<bf16>& to, bf16* s_ring, int64_t k, int64_t i0, int64_t j0,
                                                 int32_t vectors) {
    float acc[Tile::FRAGS_M][Tile::FRAGS_N][4];
    PairColumns<Tile> columns(wg, wu, j0, to.n, k);
    if (!gemm_bf16_sums<Tile>(acc, rows, columns, s_ring, k, vectors, [](int, int) { return 0.0f; })) return;
    put_pairs<Tile>(acc, to, i0, j0);
}

// First row and column, of each matrix, of this block's tile.
template <class Tile>
__device__ __forceinline__ void pair_tile_of_block(int64_t m, int64_t n, int64_t& i0, int64_t& j0) {
    tile_of_block<Tile>(m, 2 * n, i0, j0);
    j0 /= 2;
}

// A block's tile, of rows as they are given, or normed on the way.
template <class Tile>
__device__ __forceinline__ void gemm_swiglu_of(const bf16* h, const bf16* __restrict__ wg,
                                               const bf16* __restrict__ wu, const Swiglu<bf16>& to, int64_t k,
                                               int32_t vectors) {
    SHARED_DYNAMIC(bf16, s_ring);
    int64_t i0, j0;
    pair_tile_of_block<Tile>(to.m, to.n, i0, j0);
    RingRows<Tile, false> rows(h, i0, to.m, k);
    gemm_swiglu_bf16<Tile>(rows, wg, wu, to, s_ring, k, i0, j0, vectors);
}

template <class Tile>
__device__ __forceinline__ void gemm_swiglu_of(const Norm<bf16>& norm, const bf16* __restrict__ wg,
                                               const bf16* __restrict__ wu, const Swiglu<bf16>& to, int64_t k,
                                               int32_t vectors) {
    SHARED_DYNAMIC(bf16, s_ring);  // [STAGES]: a tile of columns; then the rows
    int64_t i0, j0;
    pair_tile_of_block<Tile>(to.m, to.n, i0, j0);
    NormedRows<Tile> rows(norm, s_ring + Tile::STAGES * Tile::N * GEMM_K, i0, to.m, k, vectors);
    gemm_swiglu_bf16<Tile>(rows, wg, wu, to, s_ring, k, i0, j0, vectors);
}
