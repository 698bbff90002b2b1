// bias_fwd        y = b in every row: where the sums of a linear layer with a bias begin
//
// Shapes          b [F]   y [N, F] f32 or bf16
// Numerics        a copy; the product then starts its chain at it and rounds once.
// Parallel        one thread an element.
// Cost            writes NF elements. Memory bound.
// Determinism     an element's bits depend on its bias alone.
// Source          Vaswani et al. 2017, arXiv:1706.03762, eq. 2.
// Oracle          src/ops/bias/oracle.rs
#include "common/types.cuh"

template <typename T>
__device__ __forceinline__ void bias_fwd(const T* __restrict__ b,  // [F]
                                         T* __restrict__ y,        // [N, F]
                                         int64_t n, int32_t dim) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = b[i % dim];
}

extern "C" __global__ void __launch_bounds__(256)
    bias_fwd_f32(const float* __restrict__ b, float* __restrict__ y, int64_t n, int32_t dim) {
    bias_fwd(b, y, n, dim);
}

extern "C" __global__ void __launch_bounds__(256)
    bias_fwd_bf16(const bf16* __restrict__ b, bf16* __restrict__ y, int64_t n, int32_t dim) {
    bias_fwd(b, y, n, dim);
}
