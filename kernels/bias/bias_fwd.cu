// bias_fwd        y = b in every row: where the sums of a linear layer with a bias begin
//
// Shapes          b [F]   y [N, F] f32 or bf16
// Numerics        a copy; the product then starts its chain at it and rounds once.
// Parallel        one thread 16 bytes of columns of 16 rows where rows allow it, else one column: b is read once for them.
// Cost            reads F elements, again for each 16 rows, writes NF elements. Memory bound.
// Sass            bias: LDG.E.128 STG.E.128
// Determinism     an element's bits depend on its bias alone.
// Source          Vaswani et al. 2017, arXiv:1706.03762, eq. 2.
// Oracle          src/ops/bias/oracle.rs
#include "common/types.cuh"

constexpr int ROWS = 16;  // of a thread

template <int N, typename T>
__device__ __forceinline__ void bias_fwd(const T* __restrict__ b,  // [F]
                                         T* __restrict__ y,        // [N, F]
                                         int64_t n_rows, int32_t dim) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * N, first = i / dim * ROWS;
    if (first >= n_rows) return;
    int32_t column = (int32_t)(i % dim), live = (int32_t)min((int64_t)ROWS, n_rows - first);
    Pack<T, N> x = load_pack<N>(b + column);
#pragma unroll 4
    for (int row = 0; row < live; row++) store_pack(y + (first + row) * dim + column, x);
}

template <typename T>
__device__ __forceinline__ void bias_fwd(const T* __restrict__ b, T* __restrict__ y, int64_t n_rows, int32_t dim,
                                         int32_t vectors) {
    vectors ? bias_fwd<PACK<T>>(b, y, n_rows, dim) : bias_fwd<1>(b, y, n_rows, dim);
}

extern "C" __global__ void __launch_bounds__(256)
    bias_fwd_f32(const float* __restrict__ b, float* __restrict__ y, int64_t n_rows, int32_t dim, int32_t vectors) {
    bias_fwd(b, y, n_rows, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    bias_fwd_bf16(const bf16* __restrict__ b, bf16* __restrict__ y, int64_t n_rows, int32_t dim, int32_t vectors) {
    bias_fwd(b, y, n_rows, dim, vectors);
}
