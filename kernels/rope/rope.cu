// rope            x[d], x[d + D/2] = x[d] cos - x[d + D/2] s, x[d + D/2] cos + x[d] s,   s = sign * sin
//
// Shapes          x [N, H, D] f32 or bf16, in place   positions [N] i32   table [T, D] f32: cos [D/2], sin [D/2]
// Numerics        f32; one rounding, at the store. sign 1 is rope_fwd, -1 its transpose rope_bwd.
// Parallel        one thread 16 bytes of each half of a head where heads allow it, else one pair of elements.
// Cost            reads and writes NHD elements, reads 4ND bytes of the table. Memory bound.
// Sass            rope: LDG.E.128 STG.E.128
// Determinism     a row's bits depend on that row alone; those of the CPU device.
// Requires        D even; positions in 0..T, another row becomes NaN.
// Source          Su et al. 2021, arXiv:2104.09864, eq. 34.
// Oracle          src/ops/rope/oracle.rs
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

// N pairs of one head.
template <int N, typename T>
__device__ __forceinline__ void rope(T* x,                                   // [N, H, D]
                                     const int32_t* __restrict__ positions,  // [N]
                                     const float* __restrict__ table,        // [T, D]
                                     int64_t n_pairs, int32_t n_positions, int32_t n_heads, int32_t head_dim,
                                     float sign) {
    int64_t pair = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (pair >= n_pairs) return;
    int32_t half = head_dim / 2, d = (int32_t)(pair % half);
    int64_t head = pair / half;  // counted over all rows
    int32_t pos = positions[head / n_heads];
    bool known = pos >= 0 && pos < n_positions;
    const float* angle = table + (int64_t)(known ? pos : 0) * head_dim + d;
    T* at = x + head * head_dim + d;
    Pack<T, N> first = load_pack<N>(at), second = load_pack<N>(at + half);
    float cosine[N], sine[N];
    load_floats<N>(cosine, angle);
    load_floats<N>(sine, angle + half);
#pragma unroll
    for (int j = 0; j < N; j++) {
        float c = known ? cosine[j] : __uint_as_float(0x7fc00000u), s = sine[j] * sign;
        float u = to_f32(first.v[j]), v = to_f32(second.v[j]);
        first.v[j] = from_f32<T>(u * c - v * s);
        second.v[j] = from_f32<T>(v * c + u * s);
    }
    store_pack(at, first);
    store_pack(at + half, second);
}

template <typename T>
__device__ __forceinline__ void rope(T* x, const int32_t* __restrict__ positions, const float* __restrict__ table,
                                     int64_t n_pairs, int32_t n_positions, int32_t n_heads, int32_t head_dim,
                                     float sign, int32_t vectors) {
    vectors ? rope<PACK<T>>(x, positions, table, n_pairs, n_positions, n_heads, head_dim, sign)
            : rope<1>(x, positions, table, n_pairs, n_positions, n_heads, head_dim, sign);
}

extern "C" __global__ void __launch_bounds__(256)
    rope_f32(float* x, const int32_t* __restrict__ positions, const float* __restrict__ table, int64_t n_pairs,
             int32_t n_positions, int32_t n_heads, int32_t head_dim, float sign, int32_t vectors) {
    rope(x, positions, table, n_pairs, n_positions, n_heads, head_dim, sign, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    rope_bf16(bf16* x, const int32_t* __restrict__ positions, const float* __restrict__ table, int64_t n_pairs,
              int32_t n_positions, int32_t n_heads, int32_t head_dim, float sign, int32_t vectors) {
    rope(x, positions, table, n_pairs, n_positions, n_heads, head_dim, sign, vectors);
}
