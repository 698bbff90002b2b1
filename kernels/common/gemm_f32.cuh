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

    // Steps q0.. of rows i0.., each element as of(row of the tile, step) has it; what lies outside the operand is 0.
    template <typename Of>
    __device__ __forceinline__ void load(int64_t i0, int64_t n, int64_t q0, int64_t k, Of of) {
#pragma unroll
        for (int e = 0; e < PER_THREAD; e++) {
            int i, q;
            place(e, i, q);
            x[e] = i0 + i < n && q0 + q < k ? of(i, q0 + q) : 0.0f;
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

__device__ __forceinline__ Pack<float, 4> four(const float (&x)[4]) { return {{x[0], x[1], x[2], x[3]}}; }

// Of a tile of BM x BN, by BM / 4 x BN / 4 threads: calls f(row of the tile, first column, four sums) for this thread's.
template <int BN, typename F>
__device__ __forceinline__ void each_four(float (&acc)[4][4], F f) {
    int ti = threadIdx.x / (BN / 4) * 4, tj = threadIdx.x % (BN / 4) * 4;
#pragma unroll
    for (int i = 0; i < 4; i++) f(ti + i, tj, acc[i]);
}

// Elements of a matrix as they stand, [N, K], or [K, N] when BY_K, of rows i0..: see TileF32::load.
template <bool BY_K>
struct AsIs {
    const float* from;
    int64_t i0, n, k;

    __device__ __forceinline__ float operator()(int i, int64_t q) const {
        return from[BY_K ? q * n + i0 + i : (i0 + i) * k + q];
    }
};

// Adds to acc the products of rows i0.. of A, as of_a(row of the tile, step) has them, and columns j0.. of B.
template <bool A_BY_K, bool B_BY_K, int BM, int BN, typename OfA>
__device__ __forceinline__ void gemm_f32_sums(float (&acc)[4][4], OfA of_a,
                                              const float* __restrict__ b,  // [N, K], or [K, N] when B_BY_K
                                              int64_t m, int64_t n, int64_t k, int64_t i0, int64_t j0) {
    constexpr int THREADS = BM / 4 * BN / 4;
    __shared__ __align__(16) float s_a[2][GEMM_F32_K][BM + 4];
    __shared__ __align__(16) float s_b[2][GEMM_F32_K][BN + 4];
    AsIs<B_BY_K> of_b = {b, j0, n, k};
    TileF32<A_BY_K, BM, THREADS> next_a;
    TileF32<B_BY_K, BN, THREADS> next_b;
    int ti = threadIdx.x / (BN / 4) * 4, tj = threadIdx.x % (BN / 4) * 4;
    next_a.load(i0, m, 0, k, of_a);
    next_b.load(j0, n, 0, k, of_b);
    next_a.store(s_a[0]);
    next_b.store(s_b[0]);
    __syncthreads();  // tile 0 stands in shared memory
    int stage = 0;
    for (int64_t q0 = 0; q0 < k; q0 += GEMM_F32_K, stage ^= 1) {
        bool more = q0 + GEMM_F32_K < k;
        if (more) {
            next_a.load(i0, m, q0 + GEMM_F32_K, k, of_a);
            next_b.load(j0, n, q0 + GEMM_F32_K, k, of_b);
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
    float acc[4][4] = {};
    each_four<BN>(acc, [&](int i, int j, float (&x)[4]) {
        if (!add || i0 + i >= m) return;
        Pack<float, 4> begins = load_live<4>(c + (i0 + i) * n + j0 + j, n - j0 - j);
#pragma unroll
        for (int e = 0; e < 4; e++) x[e] = begins.v[e];
    });
    gemm_f32_sums<A_BY_K, B_BY_K, BM, BN>(acc, AsIs<A_BY_K>{a, i0, m, k}, b, m, n, k, i0, j0);
    each_four<BN>(acc, [&](int i, int j, const float (&x)[4]) {
        if (i0 + i < m) store_live(c + (i0 + i) * n + j0 + j, n - j0 - j, four(x));
    });
}

// Block (x, y) has rows x BM.. and columns y BN.. of C.
template <bool A_BY_K, bool B_BY_K, int BM, int BN>
__device__ __forceinline__ void gemm_f32(const float* a, const float* __restrict__ b, float* c, int64_t m,
                                         int64_t n, int64_t k, int32_t add) {
    gemm_f32_tile<A_BY_K, B_BY_K, BM, BN>(a, b, c, m, n, k, add, (int64_t)blockIdx.x * BM, (int64_t)blockIdx.y * BN);
}
