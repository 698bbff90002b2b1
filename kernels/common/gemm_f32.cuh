// The f32 matrix product on CUDA cores that gemm_nt, _nn, _tn and the grouped ones share: c [M, N] = a b or c += a b.
//
// Each element is one chain of fused multiply-adds over K in ascending order, from zero or from what stands in C:
// the same for every M, N and tile, and the bits of the CPU device. Tiles of A and B stand in shared memory K by K,
// twice: one is read while the next is written.
#pragma once

#include "common/dependent.cuh"
#include "common/math.cuh"

constexpr int GEMM_F32_K = 16;  // steps of K a tile holds

// Element (i, q) of an operand stands at i * K + q, or at q * ROWS + i when BY_K.
template <bool BY_K, int ROWS, int THREADS>
struct TileF32 {
    static constexpr int PER_THREAD = ROWS * GEMM_F32_K / THREADS;
    static_assert(PER_THREAD * THREADS == ROWS * GEMM_F32_K, "threads share a tile evenly");
    float x[PER_THREAD];

    __device__ __forceinline__ static void place(int e, int& i, int& q) {
        int at = e * THREADS + threadIdx.x;
        i = BY_K ? at % ROWS : at / GEMM_F32_K;
        q = BY_K ? at / ROWS : at % GEMM_F32_K;
    }

    // of(element, its row in the tile, its step); what lies outside the operand is 0.
    template <typename Of>
    __device__ __forceinline__ void load(const float* from, int64_t i0, int64_t n, int64_t q0, int64_t k,
                                         Of of) {
#pragma unroll
        for (int e = 0; e < PER_THREAD; e++) {
            int i, q;
            place(e, i, q);
            bool in = i0 + i < n && q0 + q < k;
            x[e] = in ? of(from[BY_K ? (q0 + q) * n + i0 + i : (i0 + i) * k + q0 + q], i, q0 + q) : 0.0f;
        }
    }

    __device__ __forceinline__ void store(float (*to)[ROWS + 4]) const {
#pragma unroll
        for (int e = 0; e < PER_THREAD; e++) {
            int i, q;
            place(e, i, q);
            to[q][i] = x[e];
        }
    }
};

// One step of K: 4 x 4 products.
template <int BM, int BN>
__device__ __forceinline__ void gemm_f32_step(float (&acc)[4][4], const float* a, const float* b) {
    float4 x = *reinterpret_cast<const float4*>(a), y = *reinterpret_cast<const float4*>(b);
    float u[4] = {x.x, x.y, x.z, x.w}, v[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] = fmaf(u[i], v[j], acc[i][j]);
    }
}

// This thread's 4 x 4 elements of a tile of BM x BN, of BM / 4 x BN / 4 threads: calls f(row of the tile, column, value).
template <int BN, typename F>
__device__ __forceinline__ void each_f32(float (&acc)[4][4], F f) {
    int ti = threadIdx.x / (BN / 4) * 4, tj = threadIdx.x % (BN / 4) * 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) f(ti + i, tj + j, acc[i][j]);
    }
}

// Calls f(row of the tile, first column, four sums) for this thread's.
template <int BN, typename F>
__device__ __forceinline__ void each_four(const float (&acc)[4][4], F f) {
    int ti = threadIdx.x / (BN / 4) * 4, tj = threadIdx.x % (BN / 4) * 4;
#pragma unroll
    for (int i = 0; i < 4; i++) f(ti + i, tj, Pack<float, 4>{{acc[i][0], acc[i][1], acc[i][2], acc[i][3]}});
}

// Adds to acc the products of rows i0.. of A, as of(element, row of the tile, step) makes them, and columns j0.. of B.
template <bool A_BY_K, bool B_BY_K, int BM, int BN, typename Of>
__device__ __forceinline__ void gemm_f32_sums(float (&acc)[4][4],
                                              const float* a,  // [M, K], or [K, M] when A_BY_K
                                              const float* __restrict__ b,  // [N, K], or [K, N] when B_BY_K
                                              int64_t m, int64_t n, int64_t k, int64_t i0, int64_t j0, Of of) {
    constexpr int THREADS = BM / 4 * BN / 4;
    __shared__ __align__(16) float s_a[2][GEMM_F32_K][BM + 4];
    __shared__ __align__(16) float s_b[2][GEMM_F32_K][BN + 4];
    auto as_is = [](float x, int, int64_t) { return x; };
    TileF32<A_BY_K, BM, THREADS> next_a;
    TileF32<B_BY_K, BN, THREADS> next_b;
    int ti = threadIdx.x / (BN / 4) * 4, tj = threadIdx.x % (BN / 4) * 4;
    next_a.load(a, i0, m, 0, k, of);
    next_b.load(b, j0, n, 0, k, as_is);
    next_a.store(s_a[0]);
    next_b.store(s_b[0]);
    __syncthreads();  // tile 0 stands in shared memory
    int stage = 0;
    for (int64_t q0 = 0; q0 < k; q0 += GEMM_F32_K, stage ^= 1) {
        bool more = q0 + GEMM_F32_K < k;
        if (more) {
            next_a.load(a, i0, m, q0 + GEMM_F32_K, k, of);
            next_b.load(b, j0, n, q0 + GEMM_F32_K, k, as_is);
        }
        if (q0 + GEMM_F32_K <= k) {
#pragma unroll
            for (int q = 0; q < GEMM_F32_K; q++) gemm_f32_step<BM, BN>(acc, &s_a[stage][q][ti], &s_b[stage][q][tj]);
        } else {
            for (int q = 0; q < (int)(k - q0); q++) gemm_f32_step<BM, BN>(acc, &s_a[stage][q][ti], &s_b[stage][q][tj]);
        }
        if (more) {
            next_a.store(s_a[stage ^ 1]);
            next_b.store(s_b[stage ^ 1]);
        }
        __syncthreads();  // the next tile is written, this one is read
    }
}

// Rows i0.. and columns j0.. of C, by BM / 4 x BN / 4 threads.
template <bool A_BY_K, bool B_BY_K, int BM, int BN>
__device__ __forceinline__ void gemm_f32_tile(const float* a,  // [M, K], or [K, M] when A_BY_K
                                              const float* __restrict__ b,  // [N, K], or [K, N] when B_BY_K
                                              float* c,                     // [M, N], = or +=
                                              int64_t m, int64_t n, int64_t k, int32_t add, int64_t i0, int64_t j0) {
    await_predecessors();
    float acc[4][4];
    each_f32<BN>(acc, [&](int i, int j, float& x) {
        x = add && i0 + i < m && j0 + j < n ? c[(i0 + i) * n + j0 + j] : 0.0f;
    });
    gemm_f32_sums<A_BY_K, B_BY_K, BM, BN>(acc, a, b, m, n, k, i0, j0, [](float x, int, int64_t) { return x; });
    each_f32<BN>(acc, [&](int i, int j, float& x) {
        if (i0 + i < m && j0 + j < n) c[(i0 + i) * n + j0 + j] = x;
    });
}

// Block (x, y) has rows x BM.. and columns y BN.. of C.
template <bool A_BY_K, bool B_BY_K, int BM, int BN>
__device__ __forceinline__ void gemm_f32(const float* a, const float* __restrict__ b, float* c, int64_t m,
                                         int64_t n, int64_t k, int32_t add) {
    gemm_f32_tile<A_BY_K, B_BY_K, BM, BN>(a, b, c, m, n, k, add, (int64_t)blockIdx.x * BM, (int64_t)blockIdx.y * BN);
}
