// rope            x[d], x[d + D/2] = x[d] cos - x[d + D/2] s, x[d + D/2] cos + x[d] s,   s = sign * sin
//
// Shapes          x [N, H, D] f32 or bf16, in place   positions [N] i32   table [T, D] f32: cos [D/2], sin [D/2]
// Numerics        f32; one rounding, at the store. sign 1 is rope_fwd, -1 its transpose rope_bwd.
// Parallel        a block as many rows as have 4096 elements, 32 at most; a thread 16 bytes of each half of a head where heads
//                 allow it, else one pair of elements. All heads of a row find its angles in shared memory.
// Cost            reads and writes NHD elements, reads 4ND bytes of the table. Memory bound.
// Sass            rope: LDG.E.128 STG.E.128
// Determinism     a row's bits depend on that row alone; those of the CPU device.
// Requires        D even; positions in 0..T, another row becomes NaN.
// Source          Su et al. 2021, arXiv:2104.09864, eq. 34.
// Oracle          src/ops/rope/oracle.rs
#include "common/rope.cuh"
#include "common/shared.cuh"

// N pairs of a head a thread.
template <int N, typename T>
__device__ __forceinline__ void rope(T* x,                                   // [N, H, D]
                                     const int32_t* __restrict__ positions,  // [N]
                                     const float* __restrict__ table,        // [T, D]
                                     int64_t n_rows, int32_t n_positions, int32_t n_heads, int32_t head_dim,
                                     float sign, int32_t rows) {
    SHARED_DYNAMIC(float, s_angles);  // [rows, D]
    int64_t begin = (int64_t)blockIdx.x * rows;
    int32_t live = (int32_t)min((int64_t)rows, n_rows - begin), half = head_dim / 2;
    stage_angles<N>(s_angles, live, table, n_positions, head_dim, [=](int row) { return positions[begin + row]; });
    __syncthreads();  // s_angles holds the rows'
#pragma unroll 2
    for (int32_t pair = threadIdx.x * N; pair < live * n_heads * half; pair += blockDim.x * N) {
        int32_t head = pair / half, d = pair - head * half;  // counted over the block's rows
        T* at = x + (begin * n_heads + head) * head_dim + d;
        Pack<T, N> first = load_pack<N>(at), second = load_pack<N>(at + half);
        StagedAngles{s_angles, head / n_heads * head_dim, half}.rotate<N>(first, second, d, sign);
        store_pack(at, first);
        store_pack(at + half, second);
    }
}

template <typename T>
__device__ __forceinline__ void rope(T* x, const int32_t* __restrict__ positions, const float* __restrict__ table,
                                     int64_t n_rows, int32_t n_positions, int32_t n_heads, int32_t head_dim,
                                     float sign, int32_t rows, int32_t vectors) {
    vectors ? rope<PACK<T>>(x, positions, table, n_rows, n_positions, n_heads, head_dim, sign, rows)
            : rope<1>(x, positions, table, n_rows, n_positions, n_heads, head_dim, sign, rows);
}

extern "C" __global__ void __launch_bounds__(256)
    rope_f32(float* x, const int32_t* __restrict__ positions, const float* __restrict__ table, int64_t n_rows,
             int32_t n_positions, int32_t n_heads, int32_t head_dim, float sign, int32_t rows, int32_t vectors) {
    rope(x, positions, table, n_rows, n_positions, n_heads, head_dim, sign, rows, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    rope_bf16(bf16* x, const int32_t* __restrict__ positions, const float* __restrict__ table, int64_t n_rows,
              int32_t n_positions, int32_t n_heads, int32_t head_dim, float sign, int32_t rows, int32_t vectors) {
    rope(x, positions, table, n_rows, n_positions, n_heads, head_dim, sign, rows, vectors);
}
