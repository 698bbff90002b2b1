// scale           y = factor x
//
// Shapes          x, y [N], both f32, both bf16, or x f32 and y bf16
// Numerics        one product in f32; bf16 rounds to nearest even.
// Parallel        one thread an element.
// Cost            reads and writes N elements. Memory bound.
#include "common/types.cuh"

template <typename T, typename U>
__device__ __forceinline__ void scale(const T* __restrict__ x,  // [N]
                                      U* __restrict__ y,        // [N]
                                      int64_t n, float factor) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = from_f32<U>(factor * to_f32(x[i]));
}

extern "C" __global__ void __launch_bounds__(256)
    scale_f32(const float* __restrict__ x, float* __restrict__ y, int64_t n, float factor) {
    scale(x, y, n, factor);
}

extern "C" __global__ void __launch_bounds__(256)
    scale_bf16(const bf16* __restrict__ x, bf16* __restrict__ y, int64_t n, float factor) {
    scale(x, y, n, factor);
}

extern "C" __global__ void __launch_bounds__(256)
    scale_f32_bf16(const float* __restrict__ x, bf16* __restrict__ y, int64_t n, float factor) {
    scale(x, y, n, factor);
}
