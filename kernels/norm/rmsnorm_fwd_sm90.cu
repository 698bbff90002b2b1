// rmsnorm_fwd_sm90  y = x * rstd * w, as rmsnorm_fwd: of few wide rows, which a cluster of blocks shares w for
//
// Shapes          as rmsnorm_fwd.
// Numerics        as rmsnorm_fwd.
// Parallel        as rmsnorm_fwd; of eight blocks, a cluster, each reads an eighth of w and stores it in the shared memory of all.
//                 That is done before the launches before end.
// Cost            as rmsnorm_fwd, and w is read once for the rows of eight blocks.
// Sass sm_90a     rmsnorm: LDG.E.128 STG.E.128 UCGABAR_ARV UCGABAR_WAIT PREEXIT ACQBULK
// Determinism     as rmsnorm_fwd, whose bits it has.
// Requires        as rmsnorm_fwd; sm_90. A grid of a multiple of 8 blocks; those behind the last row help to read w.
// Source          CUDA C++ Programming Guide, thread block clusters, distributed shared memory.
// Oracle          src/ops/norm/oracle.rs
constexpr int BLOCKS = 8;

#include "norm/rmsnorm_fwd_rows.cuh"

extern "C" __global__ void __launch_bounds__(MOST_THREADS) CLUSTER(8)
    rmsnorm_fwd_sm90_f32(const float* x, const float* __restrict__ w, float* __restrict__ y,
                         float* __restrict__ rstd, int64_t n_rows, int32_t dim, float eps, int32_t rows, int32_t passes,
                         int32_t vectors) {
#ifdef HAGGLE_SM90
    rmsnorm_fwd(x, w, y, rstd, n_rows, dim, eps, rows, passes, vectors);
#else
    __trap();  // other chips have rmsnorm_fwd
#endif
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS) CLUSTER(8)
    rmsnorm_fwd_sm90_bf16(const bf16* x, const bf16* __restrict__ w, bf16* __restrict__ y,
                     float* __restrict__ rstd, int64_t n_rows, int32_t dim, float eps, int32_t rows, int32_t passes,
                    int32_t vectors) {
#ifdef HAGGLE_SM90
    rmsnorm_fwd(x, w, y, rstd, n_rows, dim, eps, rows, passes, vectors);
#else
    __trap();  // other chips have rmsnorm_fwd
#endif
}
