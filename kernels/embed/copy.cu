// copy            y = x, converted where the two differ
//
// Shapes          x, y [N], each f32 or bf16
// Numerics        bf16 rounds to nearest even.
// Parallel        one thread 16 bytes of elements where rows allow it, else one.
// Cost            reads and writes N elements. Memory bound.
// Sass            f32_bf16: LDG.E.128 STG.E.64
// Sass            bf16_f32: LDG.E.64 STG.E.128
#include "common/types.cuh"

template <int N, typename T, typename U>
__device__ __forceinline__ void copy(const T* __restrict__ x,  // [N]
                                     U* __restrict__ y,        // [N]
                                     int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (i >= n) return;
    Pack<T, N> from = load_pack<N>(x + i);
    Pack<U, N> to;
#pragma unroll
    for (int j = 0; j < N; j++) to.v[j] = from_f32<U>(to_f32(from.v[j]));
    store_pack(y + i, to);
}

template <typename T, typename U>
__device__ __forceinline__ void copy(const T* __restrict__ x, U* __restrict__ y, int64_t n, int32_t vectors) {
    constexpr int N = PACK<T> < PACK<U> ? PACK<T> : PACK<U>;
    vectors ? copy<N>(x, y, n) : copy<1>(x, y, n);
}

extern "C" __global__ void __launch_bounds__(256)
    copy_f32(const float* __restrict__ x, float* __restrict__ y, int64_t n, int32_t vectors) {
    copy(x, y, n, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    copy_bf16(const bf16* __restrict__ x, bf16* __restrict__ y, int64_t n, int32_t vectors) {
    copy(x, y, n, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    copy_f32_bf16(const float* __restrict__ x, bf16* __restrict__ y, int64_t n, int32_t vectors) {
    copy(x, y, n, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    copy_bf16_f32(const bf16* __restrict__ x, float* __restrict__ y, int64_t n, int32_t vectors) {
    copy(x, y, n, vectors);
}
