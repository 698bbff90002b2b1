// rmsnorm_fwd     y = x * rstd * w,   rstd = 1 / sqrt(mean_c(x^2) + eps)
//
// Shapes          x, y [N, C] f32 or bf16   w [C] the same   rstd [N] f32
// Numerics        sum of squares in f32; one rounding, at the store.
// Parallel        a pass as many rows as have 8192 elements, 8 at most, of a small batch of wide rows fewer, so that each
//                 multiprocessor has some; 128 to 512 threads load and store two vectors each at once, 16 bytes where rows
//                 allow it, else one element; half a warp sums a row from shared memory: lane l the elements l, l + 16, ...,
//                 then halves are added, 8, 4, 2, 1. A block makes several passes, 8 at most, where there are more blocks
//                 than a card takes at once.
// Cost            reads NC + C elements, writes NC elements and 4N bytes. Memory bound. Each block reads w: with eight rows
//                 or more 1/16 of what they move, with the fewer of a small batch of wide rows up to half of it, which the caches
//                 serve. Hopper has rmsnorm_fwd_sm90 for these.
// Sass            rmsnorm: LDG.E.128 STG.E.128
// Sass sm_90a     rmsnorm: PREEXIT ACQBULK
// Determinism     a row's bits depend on that row alone; those of the CPU device.
// Requires        a row and w fit into shared memory.
// Source          Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
// Oracle          src/ops/norm/oracle.rs
constexpr int BLOCKS = 1;

#include "norm/rmsnorm_fwd_rows.cuh"

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    rmsnorm_fwd_f32(const float* x, const float* __restrict__ w, float* __restrict__ y,
                    float* __restrict__ rstd, int64_t n_rows, int32_t dim, float eps, int32_t rows, int32_t passes,
                    int32_t vectors) {
    rmsnorm_fwd(x, w, y, rstd, n_rows, dim, eps, rows, passes, vectors);
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    rmsnorm_fwd_bf16(const bf16* x, const bf16* __restrict__ w, bf16* __restrict__ y,
                     float* __restrict__ rstd, int64_t n_rows, int32_t dim, float eps, int32_t rows, int32_t passes,
                    int32_t vectors) {
    rmsnorm_fwd(x, w, y, rstd, n_rows, dim, eps, rows, passes, vectors);
}
