// fill            x = value
//
// Shapes          x [N] f32 or bf16
// Parallel        one thread an element.
// Cost            writes N elements. Memory bound.
#include "common/types.cuh"

template <typename T>
__device__ __forceinline__ void fill(T* x /* [N] */, int64_t n, float value) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = from_f32<T>(value);
}

extern "C" __global__ void __launch_bounds__(256) fill_f32(float* x, int64_t n, float value) { fill(x, n, value); }

extern "C" __global__ void __launch_bounds__(256) fill_bf16(bf16* x, int64_t n, float value) {
    fill(x, n, value);
}
