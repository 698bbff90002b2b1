// The rotation of a head's pairs by a position: what rope and qk_rope share.
#pragma once

#include "common/types.cuh"

// Up to 16 bytes at once.
template <int N>
__device__ __forceinline__ void load_floats(float (&to)[N], const float* __restrict__ from) {
    constexpr int M = N < PACK<float> ? N : PACK<float>;
#pragma unroll
    for (int i = 0; i < N; i += M) {
        Pack<float, M> some = load_pack<M>(from + i);
#pragma unroll
        for (int j = 0; j < M; j++) to[i + j] = some.v[j];
    }
}

// Cosines and sines, table [T, D], at a position; those of one that the table has not are NaN.
struct Angles {
    const float* __restrict__ at;
    int32_t half;
    bool known;

    __device__ __forceinline__ Angles(const float* __restrict__ table, int32_t position, int32_t n_positions, int32_t head_dim)
        : half(head_dim / 2), known(position >= 0 && position < n_positions) {
        at = table + (int64_t)(known ? position : 0) * head_dim;
    }

    // Rotates the pairs d.. of a head, first elements and second ones, by `sign` times the angle.
    template <int N, typename T>
    __device__ __forceinline__ void rotate(Pack<T, N>& first, Pack<T, N>& second, int32_t d, float sign) const {
        float cosine[N], sine[N];
        load_floats<N>(cosine, at + d);
        load_floats<N>(sine, at + half + d);
#pragma unroll
        for (int j = 0; j < N; j++) {
            float c = known ? cosine[j] : __uint_as_float(0x7fc00000u), s = sine[j] * sign;
            float u = to_f32(first.v[j]), v = to_f32(second.v[j]);
            first.v[j] = from_f32<T>(u * c - v * s);
            second.v[j] = from_f32<T>(v * c + u * s);
        }
    }
};
