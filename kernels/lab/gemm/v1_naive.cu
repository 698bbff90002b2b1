// lab_gemm_v1_naive   c = a b^T as one would write it first: a thread an element
//
// The first rung: what every other one, and gemm_nt in benchmarks, is measured against.
//
// Shapes          a [M, K]   b [N, K]   c [M, N]; all f32 or all bf16
// Numerics        one chain of fused multiply-adds over K in f32, one rounding, at the store.
// Parallel        one thread an element, blocks of 16 x 16; no shared memory, no vectors, no tensor cores.
// Cost            2MNK FLOP; reads 2MNK elements, from whatever cache has them: a warp has 16 columns, so a step of it asks
//                 for 16 rows of b, of each one element of the 32 bytes that come.
// Determinism     a row's bits depend on that row alone; in f32 the bits of gemm_nt.
// Oracle          src/ops/gemm/oracle.rs
#include "common/math.cuh"

template <class T>
__device__ __forceinline__ void lab_gemm_v1_naive(const T* __restrict__ a,  // [M, K]
                                                  const T* __restrict__ b,  // [N, K]
                                                  T* c,                     // [M, N]
                                                  int64_t m, int64_t n, int64_t k) {
    int64_t i = (int64_t)blockIdx.y * 16 + threadIdx.y, j = (int64_t)blockIdx.x * 16 + threadIdx.x;
    if (i >= m || j >= n) return;
    float sum = 0.0f;
    for (int64_t q = 0; q < k; q++) sum = fmaf(to_f32(a[i * k + q]), to_f32(b[j * k + q]), sum);
    c[i * n + j] = from_f32<T>(sum);
}

extern "C" __global__ void __launch_bounds__(256)
    lab_gemm_v1_naive_f32(const float* __restrict__ a, const float* __restrict__ b, float* c, int64_t m, int64_t n,
                          int64_t k) {
    lab_gemm_v1_naive(a, b, c, m, n, k);
}

extern "C" __global__ void __launch_bounds__(256)
    lab_gemm_v1_naive_bf16(const bf16* __restrict__ a, const bf16* __restrict__ b, bf16* c, int64_t m, int64_t n,
                           int64_t k) {
    lab_gemm_v1_naive(a, b, c, m, n, k);
}
