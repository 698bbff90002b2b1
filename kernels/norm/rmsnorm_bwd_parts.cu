// rmsnorm_bwd_parts   sums of dy x rstd over each block of 64 rows: first half of rmsnorm_bwd's dw
//
// Shapes          dy, x [N, C] f32 or bf16   rstd [N] f32   parts [ceil(N / 64), C] f32
// Numerics        f32; from zero, four chains a block of rows.
// Parallel        one thread 16 bytes of columns of a block of rows where rows allow it, else one column.
// Cost            reads 2NC elements and 4N bytes, writes NC / 16 bytes. Memory bound.
// Sass            rmsnorm: LDG.E.128 STG.E.128
// Determinism     one order of every sum, whatever the grid.
// Source          Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
// Oracle          src/ops/norm/oracle.rs
#include "common/columns.cuh"

template <int N, typename T>
struct Item {
    Pack<T, N> dy, x;
    float rstd;
};

template <int N, typename T>
__device__ __forceinline__ void rmsnorm_bwd_parts(const T* __restrict__ dy,        // [N, C]
                                                  const T* __restrict__ x,         // [N, C]
                                                  const float* __restrict__ rstd,  // [N]
                                                  float* parts,                    // [ceil(N / 64), C]
                                                  int64_t n_rows, int32_t dim) {
    auto load = [=](int64_t row, int64_t at) {
        return Item<N, T>{load_pack<N>(dy + at), load_pack<N>(x + at), rstd[row]};
    };
    column_sums<N>(parts, n_rows, dim, load, [](float acc, const Item<N, T>& i, int e) {
        return fmaf(to_f32(i.dy.v[e]) * to_f32(i.x.v[e]), i.rstd, acc);
    });
}

template <typename T>
__device__ __forceinline__ void rmsnorm_bwd_parts(const T* __restrict__ dy, const T* __restrict__ x,
                                                  const float* __restrict__ rstd, float* parts, int64_t n_rows, int32_t dim,
                                                  int32_t vectors) {
    vectors ? rmsnorm_bwd_parts<PACK<T>>(dy, x, rstd, parts, n_rows, dim)
            : rmsnorm_bwd_parts<1>(dy, x, rstd, parts, n_rows, dim);
}

extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    rmsnorm_bwd_parts_f32(const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ rstd,
                          float* parts, int64_t n_rows, int32_t dim, int32_t vectors) {
    rmsnorm_bwd_parts(dy, x, rstd, parts, n_rows, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)
    rmsnorm_bwd_parts_bf16(const bf16* __restrict__ dy, const bf16* __restrict__ x, const float* __restrict__ rstd,
                           float* parts, int64_t n_rows, int32_t dim, int32_t vectors) {
    rmsnorm_bwd_parts(dy, x, rstd, parts, n_rows, dim, vectors);
}
