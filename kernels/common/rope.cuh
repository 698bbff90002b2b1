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

// Rotates pairs, first elements and second ones, by `sign` times their angles.
template <int N, typename T>
__device__ __forceinline__ void rotate_pairs(Pack<T, N>& first, Pack<T, N>& second, const float (&cosine)[N],
                                             const float (&sine)[N], float sign) {
#pragma unroll
    for (int j = 0; j < N; j++) {
        float c = cosine[j], s = sine[j] * sign;
        float u = to_f32(first.v[j]), v = to_f32(second.v[j]);
        first.v[j] = from_f32<T>(u * c - v * s);
        second.v[j] = from_f32<T>(v * c + u * s);
    }
}

// Where the angles of a position stand in table [T, D]; a position that the table has not has the cosine NaN.
struct Line {
    const float* __restrict__ at;
    bool known;

    __device__ __forceinline__ Line(const float* __restrict__ table, int32_t position, int32_t n_positions, int32_t head_dim)
        : known(position >= 0 && position < n_positions) {
        at = table + (int64_t)(known ? position : 0) * head_dim;
    }
};

// Cosines and sines of a position, in the table.
struct Angles {
    Line line;
    int32_t half;

    __device__ __forceinline__ Angles(const float* __restrict__ table, int32_t position, int32_t n_positions, int32_t head_dim)
        : line(table, position, n_positions, head_dim), half(head_dim / 2) {}

    // Rotates the pairs d.. of a head.
    template <int N, typename T>
    __device__ __forceinline__ void rotate(Pack<T, N>& first, Pack<T, N>& second, int32_t d, float sign) const {
        float cosine[N], sine[N];
        load_floats<N>(cosine, line.at + d);
        load_floats<N>(sine, line.at + half + d);
#pragma unroll
        for (int j = 0; j < N; j++) cosine[j] = line.known ? cosine[j] : __uint_as_float(0x7fc00000u);
        rotate_pairs<N>(first, second, cosine, sine, sign);
    }
};

// The same of a line in shared memory: heads of a row read the table once, and a line is read 16 bytes a thread, which eight
// pairs of a thread would read half a sector at a time. For eight 16 bytes stand so that neighbours, who read each second of
// them, meet in no bank.
struct StagedAngles {
    const float* s_lines;  // [n, D]
    int32_t at;            // where the row's begins
    int32_t half;

    template <int N>
    static __device__ __forceinline__ int32_t place(int32_t d) {
        return N == 8 ? d ^ (d >> 5 & 1) << 2 : d;
    }

    template <int N, typename T>
    __device__ __forceinline__ void rotate(Pack<T, N>& first, Pack<T, N>& second, int32_t d, float sign) const {
        constexpr int M = N < PACK<float> ? N : PACK<float>;
        float cosine[N], sine[N];
#pragma unroll
        for (int i = 0; i < N; i += M) {
            Pack<float, M> c = load_pack<M>(s_lines + place<N>(at + d + i));
            Pack<float, M> s = load_pack<M>(s_lines + place<N>(at + half + d + i));
#pragma unroll
            for (int j = 0; j < M; j++) cosine[i + j] = c.v[j], sine[i + j] = s.v[j];
        }
        rotate_pairs<N>(first, second, cosine, sine, sign);
    }
};

// The lines of n rows into s_lines [n, D], for rotations of N pairs: position_of(i) is the position of the i-th.
template <int N, typename PositionOf>
__device__ __forceinline__ void stage_angles(float* s_lines, int n, const float* __restrict__ table, int32_t n_positions,
                                             int32_t head_dim, PositionOf position_of) {
    constexpr int M = N < PACK<float> ? N : PACK<float>;
    for (int i = threadIdx.x * M; i < n * head_dim; i += blockDim.x * M) {
        int row = i / head_dim, d = i - row * head_dim;
        Line line(table, position_of(row), n_positions, head_dim);
        Pack<float, M> some = load_pack<M>(line.at + d);
#pragma unroll
        for (int j = 0; j < M; j++) {
            if (!line.known && d + j < head_dim / 2) some.v[j] = __uint_as_float(0x7fc00000u);
        }
        store_pack(s_lines + StagedAngles::place<N>(i), some);
    }
}
