// copy            y = x, converted where the two differ
//
// Shapes          x, y [N], each f32 or bf16
// Numerics        bf16 rounds to nearest even.
// Parallel        one thread an element.
// Cost            reads and writes N elements. Memory bound.
#include "common/types.cuh"

template <typename T, typename U>
__device__ __forceinline__ void copy(const T* __restrict__ x,  // [N]
                                     U* __restrict__ y,        // [N]
                                     int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = from_f32<U>(to_f32(x[i]));
}

extern "C" __global__ void __launch_bounds__(256)
    copy_f32(const float* __restrict__ x, float* __restrict__ y, int64_t n) {
    copy(x, y, n);
}

extern "C" __global__ void __launch_bounds__(256)
    copy_bf16(const bf16* __restrict__ x, bf16* __restrict__ y, int64_t n) {
    copy(x, y, n);
}

extern "C" __global__ void __launch_bounds__(256)
    copy_f32_bf16(const float* __restrict__ x, bf16* __restrict__ y, int64_t n) {
    copy(x, y, n);
}

extern "C" __global__ void __launch_bounds__(256)
    copy_bf16_f32(const bf16* __restrict__ x, float* __restrict__ y, int64_t n) {
    copy(x, y, n);
}
