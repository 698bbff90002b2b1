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
#include "common/rope.cuh"

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
    T* at = x + head * head_dim + d;
    Pack<T, N> first = load_pack<N>(at), second = load_pack<N>(at + half);
    Angles(table, positions[head / n_heads], n_positions, head_dim).rotate<N>(first, second, d, sign);
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
