// rmsnorm_bwd     dx += rstd g - x rstd^3 mean_c(g x),   g = dy w;   the first half of dw += sum_n dy x rstd
//
// Shapes          dy, x, dx [N, C] f32 or bf16   w [C] the same   rstd [N] f32
//                 parts [ceil(N / 64), 4, C] f32, null where w is frozen: sums of dy x rstd over row i, i + 4, ... of 64
// Numerics        sums in f32, those of parts from zero; one rounding, at the store.
// Parallel        a pass as many rows as have 4096 elements, 8 at most, loaded and stored by 16 bytes where rows allow it, half
//                 a warp a sum. A block has the rows of one chain of parts, whose columns it adds up while they are there;
//                 where w is frozen it makes passes as rmsnorm_fwd does.
// Cost            reads 3NC + C elements and 4N bytes, writes NC elements and NC bytes / 4. Memory bound. Each block reads w:
//                 where w is frozen and a block has few rows, wide ones, Hopper has rmsnorm_bwd_sm90.
// Sass            rmsnorm: LDG.E.128 STG.E.128
// Determinism     a row's bits depend on that row alone; one order of the sums of a column; the bits of the CPU device.
// Requires        two rows and w fit into shared memory.
// Derivation      y_i = x_i r w_i, dr/dx_j = -r^3 x_j / C;  dx_j = g_j r + (sum_i g_i x_i) dr/dx_j.
// Source          Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
// Oracle          src/ops/norm/oracle.rs
constexpr int BLOCKS = 1;

#include "norm/rmsnorm_bwd_rows.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_bwd_f32(const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ w,
                    const float* __restrict__ rstd, float* dx, float* parts, int64_t n_rows, int32_t dim,
                    int32_t rows, int32_t passes, int32_t staged, int32_t vectors) {
    rmsnorm_bwd(dy, x, w, rstd, dx, parts, n_rows, dim, rows, passes, staged, vectors);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_bwd_bf16(const bf16* __restrict__ dy, const bf16* __restrict__ x, const bf16* __restrict__ w,
                     const float* __restrict__ rstd, bf16* dx, float* parts, int64_t n_rows, int32_t dim,
                     int32_t rows, int32_t passes, int32_t staged, int32_t vectors) {
    rmsnorm_bwd(dy, x, w, rstd, dx, parts, n_rows, dim, rows, passes, staged, vectors);
}
