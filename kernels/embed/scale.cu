// scale           y = factor x
//
// Shapes          x, y [N], both f32, both bf16, or x f32 and y bf16
// Numerics        one product in f32; bf16 rounds to nearest even.
// Parallel        one thread 16 bytes of elements where rows allow it, else one.
// Cost            reads and writes N elements. Memory bound.
// Sass            scale: LDG.E.128 STG.E
#include "common/types.cuh"

template <int N, typename T, typename U>
__device__ __forceinline__ void scale(const T* __restrict__ x,  // [N]
                                      U* __restrict__ y,        // [N]
                                      int64_t n, float factor) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (i >= n) return;
    Pack<T, N> from = load_pack<N>(x + i);
    Pack<U, N> to;
#pragma unroll
    for (int j = 0; j < N; j++) to.v[j] = from_f32<U>(factor * to_f32(from.v[j]));
    store_pack(y + i, to);
}

template <typename T, typename U>
__device__ __forceinline__ void scale(const T* __restrict__ x, U* __restrict__ y, int64_t n, float factor, int32_t vectors) {
    constexpr int N = PACK<T> < PACK<U> ? PACK<T> : PACK<U>;
    vectors ? scale<N>(x, y, n, factor) : scale<1>(x, y, n, factor);
}

extern "C" __global__ void __launch_bounds__(256)
    scale_f32(const float* __restrict__ x, float* __restrict__ y, int64_t n, float factor, int32_t vectors) {
    scale(x, y, n, factor, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    scale_bf16(const bf16* __restrict__ x, bf16* __restrict__ y, int64_t n, float factor, int32_t vectors) {
    scale(x, y, n, factor, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    scale_f32_bf16(const float* __restrict__ x, bf16* __restrict__ y, int64_t n, float factor, int32_t vectors) {
    scale(x, y, n, factor, vectors);
}
