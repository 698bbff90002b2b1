// fill            x = value
//
// Shapes          x [N] f32 or bf16
// Parallel        one thread 16 bytes of elements where rows allow it, else one.
// Cost            writes N elements. Memory bound.
// Sass            fill: STG.E.128
#include "common/types.cuh"

template <int N, typename T>
__device__ __forceinline__ void fill(T* x /* [N] */, int64_t n, float value) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (i >= n) return;
    Pack<T, N> to;
#pragma unroll
    for (int j = 0; j < N; j++) to.v[j] = from_f32<T>(value);
    store_pack(x + i, to);
}

template <typename T>
__device__ __forceinline__ void fill(T* x, int64_t n, float value, int32_t vectors) {
    vectors ? fill<PACK<T>>(x, n, value) : fill<1>(x, n, value);
}

extern "C" __global__ void __launch_bounds__(256) fill_f32(float* x, int64_t n, float value, int32_t vectors) {
    fill(x, n, value, vectors);
}

extern "C" __global__ void __launch_bounds__(256) fill_bf16(bf16* x, int64_t n, float value, int32_t vectors) {
    fill(x, n, value, vectors);
}
