// Few rows that are normed on their way into a product: h = x rstd w, as rmsnorm_fwd has it to the bit, without a launch of its
// own and without h in memory. Each block norms its rows again, while the first columns of the weight are on their way. Blocks of a
// cluster share that, and what they read for it: each norms some of the rows, and writes them into the shared memory of all.
#pragma once

#include "common/cluster.cuh"
#include "common/gemm_bf16.cuh"
#include "common/gemm_f32.cuh"
#include "common/rows.cuh"

// A norm's rows and weight.
template <typename T>
struct Norm {
    const T* x;               // [M, K]
    const T* __restrict__ w;  // [K]
    float eps;
};

// Eight of a tile side by side in a cluster.
template <class Tile>
struct SideBySide : Tile {
    static constexpr int ACROSS = 8;
};

// A tile's rows, normed, in shared memory all the time: [live, stride], stride a multiple of 64 steps; of 64 steps the
// chunks of eight are swizzled by the row, as in a slot of a ring. A fragment's rows past the last one are that one again:
// what is made of them is stored nowhere. Of the blocks side by side in a cluster each norms every ACROSS-th row.
template <class Tile>
struct NormedRows {
    using Operand = OperandTile<false, Tile::M>;
    static constexpr int SLOT = 0, BLOCKS = Tile::ACROSS;
    const Norm<bf16>& norm;
    bf16* s_rows;
    int64_t i0;
    int32_t live, dim, stride, vectors;
    int32_t rank, mine;  // the first row that this block norms, and how many those are

    __device__ __forceinline__ NormedRows(const Norm<bf16>& norm, bf16* s_rows, int64_t i0, int64_t m, int64_t k,
                                          int32_t vectors)
        : norm(norm), s_rows(s_rows), i0(i0), live((int32_t)min((int64_t)Tile::M, m - i0)), dim((int32_t)k),
          stride((int32_t)ceil_div(k, GEMM_K) * GEMM_K), vectors(vectors) {
        rank = BLOCKS == 1 ? 0 : (int32_t)cluster_ctarank(), mine = (live - rank + BLOCKS - 1) / BLOCKS;
    }
    __device__ __forceinline__ void start(bf16*) {}
    __device__ __forceinline__ void load(bf16*, int) {}
    __device__ __forceinline__ int place(int row, int i) const { return row * stride + (i ^ (row % 8 * 8)); }
    __device__ __forceinline__ int row_of(int n) const { return rank + n * BLOCKS; }  // the n-th of this block's

    // Puts N elements of a normed row where all blocks that multiply it have it.
    template <int N>
    __device__ __forceinline__ void give(int at, const Pack<bf16, N>& x) {
        if constexpr (BLOCKS == 1) {
            store_pack(s_rows + at, x);
        } else {
#pragma unroll
            for (int i = 0; i < BLOCKS; i++) store_pack(mapa(s_rows + at, (rank + i) % BLOCKS), x);
        }
    }

    template <int N>
    __device__ __forceinline__ void prepare_by() {
        __shared__ float s_rstd[Tile::M];
#pragma unroll 4
        for (int at = threadIdx.x * N; at < mine * dim; at += Tile::THREADS * N) {
            int row = row_of(at / dim), i = at % dim;
            store_pack(s_rows + place(row, i), load_pack<N>(norm.x + (i0 + row) * dim + i));
        }
        // Steps that there are not, of which the weight has zeros too.
        for (int at = threadIdx.x; at < live * (stride - dim); at += Tile::THREADS) {
            s_rows[place(at / (stride - dim), dim + at % (stride - dim))] = from_f32<bf16>(0.0f);
        }
        __syncthreads();  // the block's own rows stand in shared memory
        // A warp's two rows lie in different banks.
        constexpr int WARPS = Tile::THREADS / 32;
        for (int first = 0; first < mine; first += 2 * WARPS) {
            int n = first + threadIdx.x / 32 + threadIdx.x % 32 / ROW_LANES * WARPS, row = row_of(min(n, mine - 1));
            const bf16* s_row = s_rows + row * stride;
            float r = row_rstd(n < mine, dim, norm.eps, [=](int i) { return to_f32(s_row[i ^ (row % 8 * 8)]); });
            if (n < mine && threadIdx.x % ROW_LANES == 0) s_rstd[row] = r;
        }
        __syncthreads();  // s_rstd holds the rows'
        if constexpr (BLOCKS > 1) barrier_cluster_relaxed();  // all blocks have begun
        // A thread has columns and every eighth row of them, of fewer rows all: it loads the weight once for its rows. Eight
        // lanes side by side have different banks.
        int apart = mine < 8 ? 1 : 8;
        for (int i = threadIdx.x / apart * N; i < dim; i += Tile::THREADS / apart * N) {
            Pack<bf16, N> w = load_pack<N>(norm.w + i);
#pragma unroll 2
            for (int n = threadIdx.x % apart; n < mine; n += apart) {
                int row = row_of(n);
                Pack<bf16, N> x = load_pack<N>(s_rows + place(row, i));
#pragma unroll
                for (int e = 0; e < N; e++) x.v[e] = from_f32<bf16>(to_f32(x.v[e]) * s_rstd[row] * to_f32(w.v[e]));
                give(place(row, i), x);
            }
        }
        if constexpr (BLOCKS > 1) barrier_cluster();  // all rows stand in all blocks, and none is written any more
    }

    // The next barrier shows the rows to all.
    __device__ __forceinline__ void prepare() { vectors ? prepare_by<PACK<bf16>>() : prepare_by<1>(); }
    __device__ __forceinline__ int at(int i) const {
        int lane = threadIdx.x % 32;
        return place(min(i + lane % 16, live - 1), lane / 16 * 8);
    }
    __device__ __forceinline__ const bf16* of_step(const bf16*, int step) const { return s_rows + step * GEMM_K; }
};

// The same in f32, as gemm_f32_sums takes elements of rows.
struct NormedF32 {
    const float* s_rows;  // [live, row_stride]
    int32_t dim;

    __device__ __forceinline__ float operator()(int i, int64_t step) const { return s_rows[i * row_stride(dim) + (int)step]; }
};

// A tile's rows i0.., normed into dynamic shared memory by all threads; that is all of it.
template <int BM, int THREADS>
__device__ __forceinline__ NormedF32 norm_rows(const Norm<float>& norm, int64_t i0, int64_t m, int64_t k) {
    SHARED_DYNAMIC(float, s_rows);
    __shared__ float s_rstd[BM];
    int live = (int)min((int64_t)BM, m - i0), dim = (int)k;
    await_predecessors();
    load_rows<1>(s_rows, norm.x + i0 * k, live, dim);
    __syncthreads();  // s_rows holds the rows
    for (int first = 0; first < live; first += THREADS / ROW_LANES) {
        int row = first + threadIdx.x / ROW_LANES;
        const float* s_row = s_rows + min(row, live - 1) * row_stride(dim);
        float r = row_rstd(row < live, dim, norm.eps, [=](int i) { return s_row[i]; });
        if (row < live && threadIdx.x % ROW_LANES == 0) s_rstd[row] = r;
    }
    __syncthreads();  // s_rstd holds the rows'
    for (int i = threadIdx.x; i < dim; i += THREADS) {
        float w = norm.w[i];
        for (int row = 0; row < live; row++) {
            float& x = s_rows[row * row_stride(dim) + i];
            x = x * s_rstd[row] * w;
        }
    }
    __syncthreads();  // s_rows holds them normed
    return {s_rows, dim};
}
