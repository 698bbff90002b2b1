// bias_bwd_parts  sums of dy over each block of 64 rows: first half of bias_bwd
//
// Shapes          dy [N, F] f32 or bf16   parts [ceil(N / 64), F] f32
// Numerics        f32; from zero, four chains a block of rows.
// Parallel        one thread 16 bytes of columns of a block of rows where rows allow it, else one column.
// Cost            reads NF elements, writes NF / 16 bytes. Memory bound.
// Sass            bias: LDG.E.128 STG.E.128
// Determinism     one order of every sum, whatever the grid; the bits of the CPU device.
// Source          Vaswani et al. 2017, arXiv:1706.03762, eq. 2.
// Oracle          src/ops/bias/oracle.rs
#include "common/columns.cuh"

template <int N, typename T>
__device__ __forceinline__ void bias_bwd_parts(const T* __restrict__ dy,  // [N, F]
                                               float* parts,              // [ceil(N / 64), F]
                                               int64_t n_rows, int32_t dim) {
    column_sums<N>(parts, n_rows, dim, [=](int64_t, int64_t at) { return load_pack<N>(dy + at); },
                   [](float acc, const Pack<T, N>& x, int e) { return acc + to_f32(x.v[e]); });
}

template <typename T>
__device__ __forceinline__ void bias_bwd_parts(const T* __restrict__ dy, float* parts, int64_t n_rows, int32_t dim,
                                               int32_t vectors) {
    vectors ? bias_bwd_parts<PACK<T>>(dy, parts, n_rows, dim) : bias_bwd_parts<1>(dy, parts, n_rows, dim);
}

extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    bias_bwd_parts_f32(const float* __restrict__ dy, float* parts, int64_t n_rows, int32_t dim, int32_t vectors) {
    bias_bwd_parts(dy, parts, n_rows, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    bias_bwd_parts_bf16(const bf16* __restrict__ dy, float* parts, int64_t n_rows, int32_t dim, int32_t vectors) {
    bias_bwd_parts(dy, parts, n_rows, dim, vectors);
}
