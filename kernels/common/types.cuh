// Number types of the kernels: CUDA's own under nvcc, the emulator's on the host.
//
// Storage is f32 or bf16, arithmetic is in f32: to_f32 on loading, from_f32 (one rounding, to nearest even) at the store.
#pragma once

#ifdef HAGGLE_EMU
#include "emu/emu.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#endif

using bf16 = __nv_bfloat16;
using f16 = __half;

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T from_f32(float x);
template <>
__device__ __forceinline__ float from_f32<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float x) {
    return __float2bfloat16_rn(x);
}

// N elements that are loaded and stored at once; N * sizeof(T) is 2, 4, 8 or 16 bytes, the address a multiple of it.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
    T v[N];
};

// Elements of 16 bytes.
template <class T>
constexpr int PACK = 16 / static_cast<int>(sizeof(T));

template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
    return *reinterpret_cast<const Pack<T, N>*>(p);
}

template <int N, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& x) {
    *reinterpret_cast<Pack<T, N>*>(p) = x;
}

// The first `live` of x, rounded, from `to` on: at once where all of them are and `to` is a vector's boundary.
template <int N, class T>
__device__ __forceinline__ void store_rounded(T* to, int64_t live, const Pack<float, N>& x) {
    Pack<T, N> y;
#pragma unroll
    for (int e = 0; e < N; e++) y.v[e] = from_f32<T>(x.v[e]);
    if (live >= N && reinterpret_cast<uintptr_t>(to) % sizeof(y) == 0) return store_pack(to, y);
#pragma unroll
    for (int e = 0; e < N; e++) {
        if (e < live) to[e] = y.v[e];
    }
}
