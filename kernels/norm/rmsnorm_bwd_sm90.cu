// rmsnorm_bwd_sm90  dx += rstd g - x rstd^3 mean_c(g x),   g = dy w, as rmsnorm_bwd: of few wide rows under a frozen w, which a
//                 cluster of blocks shares
//
// Shapes          as rmsnorm_bwd; parts null.
// Numerics        as rmsnorm_bwd.
// Parallel        as rmsnorm_bwd; of eight blocks, a cluster, each reads an eighth of w and stores it in the shared memory of all.
// Cost            as rmsnorm_bwd, and w is read once for the rows of eight blocks.
// Sass sm_90a     rmsnorm: LDG.E.128 STG.E.128 UCGABAR_ARV UCGABAR_WAIT
// Determinism     as rmsnorm_bwd, whose bits it has.
// Requires        as rmsnorm_bwd; sm_90. A grid of a multiple of 8 blocks; those behind the last row help to read w.
// Source          CUDA C++ Programming Guide, thread block clusters, distributed shared memory.
// Oracle          src/ops/norm/oracle.rs
constexpr int BLOCKS = 8;

#include "norm/rmsnorm_bwd_rows.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) CLUSTER(8)
    rmsnorm_bwd_sm90_f32(const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ w,
                         const float* __restrict__ rstd, float* dx, float* parts, int64_t n_rows, int32_t dim,
                         int32_t rows, int32_t passes, int32_t staged, int32_t vectors) {
#ifdef HAGGLE_SM90
    rmsnorm_bwd(dy, x, w, rstd, dx, parts, n_rows, dim, rows, passes, staged, vectors);
#else
    __trap();  // other chips have rmsnorm_bwd
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS) CLUSTER(8)
    rmsnorm_bwd_sm90_bf16(const bf16* __restrict__ dy, const bf16* __restrict__ x, const bf16* __restrict__ w,
                         const float* __restrict__ rstd, bf16* dx, float* parts, int64_t n_rows, int32_t dim,
                         int32_t rows, int32_t passes, int32_t staged, int32_t vectors) {
#ifdef HAGGLE_SM90
    rmsnorm_bwd(dy, x, w, rstd, dx, parts, n_rows, dim, rows, passes, staged, vectors);
#else
    __trap();  // other chips have rmsnorm_bwd
#endif
}
