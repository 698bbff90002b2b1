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

// The same by one instruction, where the parts of x may be stored apart as well: there the compiler prefers that to a vector.
template <int N, class T>
__device__ __forceinline__ void store_whole(T* to, const Pack<T, N>& x) {
#ifdef HAGGLE_EMU
    store_pack(to, x);
#else
    if constexpr (sizeof(x) == sizeof(uint4)) {
        *reinterpret_cast<uint4*>(to) = reinterpret_cast<const uint4&>(x);
    } else if constexpr (sizeof(x) == sizeof(uint2)) {
        *reinterpret_cast<uint2*>(to) = reinterpret_cast<const uint2&>(x);
    } else {
        static_assert(sizeof(x) == sizeof(uint32_t), "a vector that is stored at once");
        *reinterpret_cast<uint32_t*>(to) = reinterpret_cast<const uint32_t&>(x);
    }
#endif
}

// The first `live` of x from `to` on: at once where all of them are and `to` is a vector's boundary.
template <int N, class T>
__device__ __forceinline__ void store_live(T* to, int64_t live, const Pack<T, N>& x) {
    if (live >= N && reinterpret_cast<uintptr_t>(to) % sizeof(x) == 0) return store_whole(to, x);
#pragma unroll
    for (int e = 0; e < N; e++) {
        if (e < live) to[e] = x.v[e];
    }
}

// The same of 16 bytes that stand side by side in shared memory, on a vector's boundary.
template <class T>
__device__ __forceinline__ void store_16_live(T* to, int64_t live, const T* s_from) {
    constexpr int N = PACK<T>;
    if (live >= N && reinterpret_cast<uintptr_t>(to) % (N * sizeof(T)) == 0) {
        store_whole(to, *reinterpret_cast<const Pack<T, N>*>(s_from));
    } else {
#pragma unroll 1
        for (int e = 0; e < N && e < live; e++) to[e] = s_from[e];
    }
}

// The same to load; what does not live is 0.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_live(const T* from, int64_t live) {
    if (live >= N && reinterpret_cast<uintptr_t>(from) % sizeof(Pack<T, N>) == 0) return load_pack<N>(from);
    Pack<T, N> x;
#pragma unroll
    for (int e = 0; e < N; e++) x.v[e] = e < live ? from[e] : from_f32<T>(0.0f);
    return x;
}

// x as it is stored.
template <class T, int N>
__device__ __forceinline__ Pack<T, N> rounded(const Pack<float, N>& x) {
    Pack<T, N> y;
#pragma unroll
    for (int e = 0; e < N; e++) y.v[e] = from_f32<T>(x.v[e]);
    return y;
}

template <int N, class T>
__device__ __forceinline__ void store_rounded(T* to, int64_t live, const Pack<float, N>& x) {
    store_live(to, live, rounded<T>(x));
}
