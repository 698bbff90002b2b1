// Few rows that are normed on their way into a product: h = x rstd w, as rmsnorm_fwd has it to the bit, without a launch of its
// own and without h in memory. Each block norms its rows again, while the first columns of the weight are on their way.
#pragma once

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

// A tile's rows, normed, in shared memory all the time: [live, stride], stride a multiple of 64 steps; of 64 steps the
// chunks of eight are swizzled by the row, as in a slot of a ring. A fragment's rows past the last one are that one again:
// what is made of them is stored nowhere.
template <class Tile>
struct NormedRows {
    using Operand = OperandTile<false, Tile::M>;
    static constexpr int SLOT = 0;
    const Norm<bf16>& norm;
    bf16* s_rows;
    int64_t i0;
    int32_t live, dim, stride, vectors;

    __device__ __forceinline__ NormedRows(const Norm<bf16>& norm, bf16* s_rows, int64_t i0, int64_t m, int64_t k,
                                          int32_t vectors)
        : norm(norm), s_rows(s_rows), i0(i0), live((int32_t)min((int64_t)Tile::M, m - i0)), dim((int32_t)k),
          stride((int32_t)ceil_div(k, GEMM_K) * GEMM_K), vectors(vectors) {}
    __device__ __forceinline__ void start(bf16*) {}
    __device__ __forceinline__ void load(bf16*, int) {}
    __device__ __forceinline__ int place(int row, int i) const { return row * stride + (i ^ (row % 8 * 8)); }

    // Calls f(place in s_rows, row, first element) for each vector of N elements of the rows' `width`, all threads side by side.
    template <int N, class F>
    __device__ __forceinline__ void each(int width, F f) {
#pragma unroll 4
        for (int at = threadIdx.x * N; at < live * width; at += Tile::THREADS * N) {
            int row = at / width, i = at - row * width;
            f(place(row, i), row, i);
        }
    }

    template <int N>
    __device__ __forceinline__ void prepare_by() {
        __shared__ float s_rstd[Tile::M];
        each<N>(dim, [&](int at, int row, int i) { store_pack(s_rows + at, load_pack<N>(norm.x + (i0 + row) * dim + i)); });
        // Steps that there are not, of which the weight has zeros too.
        for (int at = threadIdx.x; at < live * (stride - dim); at += Tile::THREADS) {
            s_rows[place(at / (stride - dim), dim + at % (stride - dim))] = from_f32<bf16>(0.0f);
        }
        __syncthreads();  // the rows stand in shared memory
        // A warp's two rows lie in different banks.
        constexpr int WARPS = Tile::THREADS / 32;
        for (int first = 0; first < live; first += 2 * WARPS) {
            int row = first + threadIdx.x / 32 + threadIdx.x % 32 / ROW_LANES * WARPS;
            const bf16* s_row = s_rows + min(row, live - 1) * stride;
            float r = row_rstd(row < live, dim, norm.eps, [=](int i) { return to_f32(s_row[i ^ (row % 8 * 8)]); });
            if (row < live && threadIdx.x % ROW_LANES == 0) s_rstd[row] = r;
        }
        __syncthreads();  // s_rstd holds the rows'
        // A thread has columns and every eighth row of them, of fewer rows all: it loads the weight once for its rows. Eight
        // lanes side by side have different banks.
        int apart = live < 8 ? 1 : 8;
        for (int i = threadIdx.x / apart * N; i < dim; i += Tile::THREADS / apart * N) {
            Pack<bf16, N> w = load_pack<N>(norm.w + i);
#pragma unroll 2
            for (int row = threadIdx.x % apart; row < live; row += apart) {
                Pack<bf16, N> x = load_pack<N>(s_rows + place(row, i));
#pragma unroll
                for (int e = 0; e < N; e++) x.v[e] = from_f32<bf16>(to_f32(x.v[e]) * s_rstd[row] * to_f32(w.v[e]));
                store_pack(s_rows + place(row, i), x);
            }
        }
    }

    // The next barrier shows the rows to all.
    __device__ __forceinline__ void prepare() { vectors ? prepare_by<PACK<bf16>>() : prepare_by<1>(); }
    __device__ __forceinline__ int at(int i) const {
        int lane = threadIdx.x % 32;
        return place(min(i + lane % 16, live - 1), lane / 16 * 8);
    }
    __device__ __forceinline__ const bf16* of_step(const bf16*, int step) const { return s_rows + step * GEMM_K; }
};

// The same in f32, as gemm_f32_sums takes elements of rows: rstd of a tile's rows i0.., by all threads.
template <int BM, int THREADS>
__device__ __forceinline__ void tile_rstd(float* s_rstd, const Norm<float>& norm, int64_t i0, int64_t m, int64_t k) {
    await_predecessors();
    int live = (int)min((int64_t)BM, m - i0);
    for (int first = 0; first < live; first += THREADS / ROW_LANES) {
        int row = first + threadIdx.x / ROW_LANES;
        const float* x = norm.x + (i0 + min(row, live - 1)) * k;
        float r = row_rstd(row < live, (int32_t)k, norm.eps, [=](int i) { return x[i]; });
        if (row < live && threadIdx.x % ROW_LANES == 0) s_rstd[row] = r;
    }
    __syncthreads();  // s_rstd holds the rows'
}
