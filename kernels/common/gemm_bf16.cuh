// The bf16 matrix product on tensor cores that gemm_nt, _nn, _tn and the grouped ones share: c [M, N] = a b or c += a b.
//
// Each element is accumulated in f32 by one chain of mma.sync m16n8k16 over K in ascending order, from zero or from
// what stands in C, and rounded once, at the store: the same instructions in the same order for every M, N and tile.
// Tiles of A and B come by cp.async into a ring of STAGES slots in shared memory, swizzled (common/mma.cuh).
#pragma once

#include "common/math.cuh"
#include "common/mma.cuh"
#include "common/shared.cuh"

constexpr int GEMM_K = 64;  // of a slot

// A tile's rows (M or N), columns, warps down and across, slots of the ring.
template <int M_, int N_, int WARPS_M_, int WARPS_N_, int STAGES_>
struct GemmTile {
    static constexpr int M = M_, N = N_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, STAGES = STAGES_;
    static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr int FRAGS_M = M / WARPS_M / 16, FRAGS_N = N / WARPS_N / 8;
    static constexpr int SLOT = (M + N) * GEMM_K;  // elements
    static_assert(FRAGS_M * WARPS_M * 16 == M && FRAGS_N * WARPS_N * 8 == N, "warps share the tile evenly");
    static_assert(FRAGS_N % 2 == 0, "an ldmatrix brings B for 16 columns");
};

using Gemm128x128 = GemmTile<128, 128, 2, 4, 3>;  // training
using Gemm64x64 = GemmTile<64, 64, 2, 2, 3>;      // prefill, larger batches
using Gemm16x32 = GemmTile<16, 32, 1, 2, 6>;      // decode

// An operand's tile of ROWS x GEMM_K, stored like the operand: [ROWS, GEMM_K], or [GEMM_K, ROWS] when BY_K.
template <bool BY_K, int ROWS>
struct OperandTile {
    static constexpr int LINES = BY_K ? GEMM_K : ROWS, CHUNKS = (BY_K ? ROWS : GEMM_K) / 8;

    // Starts to load rows i0.. and steps q0..; what lies outside the operand is 0. `vectors`: all its lines start on
    // 16 bytes and are whole chunks.
    template <int THREADS>
    __device__ __forceinline__ static void load(bf16* s_to, const bf16* __restrict__ from, int64_t i0, int64_t n,
                                                int64_t q0, int64_t k, bool vectors) {
        int64_t line0 = BY_K ? q0 : i0, lines = BY_K ? k : n, at0 = BY_K ? i0 : q0, width = BY_K ? n : k;
        constexpr int EACH = LINES * CHUNKS / THREADS;
        static_assert(EACH * THREADS == LINES * CHUNKS, "threads share a tile evenly");
        if (vectors) {
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                int i = e * THREADS + threadIdx.x, line = i / CHUNKS, chunk = i % CHUNKS;
                int64_t row = line0 + line, at = at0 + chunk * 8;
                bool in = row < lines && at < width;
                cp_async_16(s_to + swizzled<CHUNKS>(line, chunk) * 8, from + (in ? row * width + at : 0), in ? 16 : 0);
            }
            return;
        }
#pragma unroll 1
        for (int i = threadIdx.x; i < LINES * CHUNKS * 8; i += THREADS) {
            int line = i / (CHUNKS * 8), x = i % (CHUNKS * 8);
            int64_t row = line0 + line, at = at0 + x;
            bf16 zero = from_f32<bf16>(0.0f);
            s_to[swizzled<CHUNKS>(line, x / 8) * 8 + x % 8] = row < lines && at < width ? from[row * width + at] : zero;
        }
    }

    __device__ __forceinline__ static void load_a(uint32_t (&x)[4], const bf16* s_from, int i0, int q0) {
        if constexpr (BY_K) {
            frag_a_turned<CHUNKS>(x, s_from, i0, q0);
        } else {
            frag_a<CHUNKS>(x, s_from, i0, q0);
        }
    }

    __device__ __forceinline__ static void load_b(uint32_t (&x)[2][2], const bf16* s_from, int i0, int q0) {
        if constexpr (BY_K) {
            frag_b_turned<CHUNKS>(x, s_from, i0, q0);
        } else {
            frag_b<CHUNKS>(x, s_from, i0, q0);
        }
    }
};

// First row and column of this block's tile: eight tiles down, then the next column, so that a wave of blocks reads
// few rows of A and few columns of B.
template <class Tile>
__device__ __forceinline__ void tile_of_block(int64_t m, int64_t n, int64_t& i0, int64_t& j0) {
    int64_t down = ceil_div(m, Tile::M), across = ceil_div(n, Tile::N), block = blockIdx.x;
    int64_t first = block / (8 * across) * 8, rows = min((int64_t)8, down - first), at = block % (8 * across);
    i0 = (first + at % rows) * Tile::M;
    j0 = at / rows * Tile::N;
}

// Calls f(row of the block's tile, column, value) for this lane's elements.
template <class Tile, class F>
__device__ __forceinline__ void each_element(float (&acc)[Tile::FRAGS_M][Tile::FRAGS_N][4], F f) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int i0 = warp / Tile::WARPS_N * Tile::FRAGS_M * 16 + lane / 4;
    int j0 = warp % Tile::WARPS_N * Tile::FRAGS_N * 8 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < Tile::FRAGS_M; i++) {
#pragma unroll
        for (int j = 0; j < Tile::FRAGS_N; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) f(i0 + i * 16 + e / 2 * 8, j0 + j * 8 + e % 2, acc[i][j][e]);
        }
    }
}

// The tile of rows i0.. and columns j0.. of C.
template <class Tile, bool A_BY_K, bool B_BY_K, typename C>
__device__ __forceinline__ void gemm_bf16_tile(const bf16* __restrict__ a,  // [M, K], or [K, M] when A_BY_K
                                               const bf16* __restrict__ b,  // [N, K], or [K, N] when B_BY_K
                                               C* c,                        // [M, N], = or +=
                                               int64_t m, int64_t n, int64_t k, int32_t add, int32_t vectors,
                                               int64_t i0, int64_t j0) {
    using TileA = OperandTile<A_BY_K, Tile::M>;
    using TileB = OperandTile<B_BY_K, Tile::N>;
    SHARED_DYNAMIC(bf16, s_ring);  // [STAGES]: a tile of A, a tile of B
    float acc[Tile::FRAGS_M][Tile::FRAGS_N][4];
    each_element<Tile>(acc, [&](int i, int j, float& x) {
        x = add && i0 + i < m && j0 + j < n ? to_f32(c[(i0 + i) * n + j0 + j]) : 0.0f;
    });
    int steps = (int)ceil_div(k, GEMM_K);
    auto load = [&](int step) {
        bf16* s_slot = s_ring + step % Tile::STAGES * Tile::SLOT;
        if (step < steps) {
            TileA::template load<Tile::THREADS>(s_slot, a, i0, m, (int64_t)step * GEMM_K, k, vectors);
            TileB::template load<Tile::THREADS>(s_slot + Tile::M * GEMM_K, b, j0, n, (int64_t)step * GEMM_K, k, vectors);
        }
        cp_async_commit();  // an empty group keeps the count
    };
#pragma unroll
    for (int step = 0; step < Tile::STAGES - 1; step++) load(step);
    int warp = threadIdx.x / 32;
    int wi = warp / Tile::WARPS_N * Tile::FRAGS_M * 16, wj = warp % Tile::WARPS_N * Tile::FRAGS_N * 8;
    for (int step = 0; step < steps; step++) {
        cp_async_wait<Tile::STAGES - 2>();
        __syncthreads();  // this step's slot is written, the last step's is read
        load(step + Tile::STAGES - 1);
        const bf16* s_a = s_ring + step % Tile::STAGES * Tile::SLOT;
        const bf16* s_b = s_a + Tile::M * GEMM_K;
#pragma unroll
        for (int q = 0; q < GEMM_K; q += 16) {
            uint32_t x[Tile::FRAGS_M][4], y[Tile::FRAGS_N / 2][2][2];
#pragma unroll
            for (int i = 0; i < Tile::FRAGS_M; i++) TileA::load_a(x[i], s_a, wi + i * 16, q);
#pragma unroll
            for (int j = 0; j < Tile::FRAGS_N / 2; j++) TileB::load_b(y[j], s_b, wj + j * 16, q);
#pragma unroll
            for (int i = 0; i < Tile::FRAGS_M; i++) {
#pragma unroll
                for (int j = 0; j < Tile::FRAGS_N; j++) mma_m16n8k16_bf16(acc[i][j], x[i], y[j / 2][j % 2]);
            }
        }
    }
    cp_async_wait<0>();  // nothing is under way when the block ends
    each_element<Tile>(acc, [&](int i, int j, float& x) {
        if (i0 + i < m && j0 + j < n) c[(i0 + i) * n + j0 + j] = from_f32<C>(x);
    });
}

template <class Tile, bool A_BY_K, bool B_BY_K, typename C>
__device__ __forceinline__ void gemm_bf16(const bf16* __restrict__ a, const bf16* __restrict__ b, C* c, int64_t m,
                                          int64_t n, int64_t k, int32_t add, int32_t vectors) {
    int64_t i0, j0;
    tile_of_block<Tile>(m, n, i0, j0);
    gemm_bf16_tile<Tile, A_BY_K, B_BY_K>(a, b, c, m, n, k, add, vectors, i0, j0);
}
