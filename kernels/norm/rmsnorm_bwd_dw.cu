// rmsnorm_bwd_dw  dw += sum_n dy x rstd
//
// Shapes          dy, x [N, C] f32 or bf16   rstd [N] f32   dw [C] f32
// Numerics        f32. Blocks of 64 rows are summed from zero, four chains a block, then added to dw in order: long
//                 sums stay exact.
// Parallel        16 columns a block; 32 blocks of rows at a time, one a group of 16 threads.
// Cost            reads 2NC elements and 4N bytes a block of columns, writes 4C bytes. Memory bound.
// Determinism     one order of every sum, whatever the grid; the bits of the CPU device.
// Source          Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
// Oracle          src/oracle/norm.rs
#include "common/math.cuh"

constexpr int COLUMNS = 16;  // of a thread block
constexpr int BLOCKS = 32;   // of rows, at a time
constexpr int ROWS = 64;     // of such a block

template <typename T>
__device__ __forceinline__ void rmsnorm_bwd_dw(const T* __restrict__ dy,       // [N, C]
                                               const T* __restrict__ x,        // [N, C]
                                               const float* __restrict__ rstd,  // [N]
                                               float* dw,                       // [C], +=
                                               int64_t n_rows, int32_t dim) {
    __shared__ float s_sum[BLOCKS][COLUMNS];
    int lane = threadIdx.x % COLUMNS, part = threadIdx.x / COLUMNS;
    int32_t column = blockIdx.x * COLUMNS + lane;
    bool live = column < dim;
    float total = live && part == 0 ? dw[column] : 0.0f;
    for (int64_t first = 0; first < n_rows; first += BLOCKS * ROWS) {
        int64_t row = first + part * ROWS;
        float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (live) {
            int rows = (int)min((int64_t)ROWS, max(n_rows - row, (int64_t)0));
#pragma unroll 4
            for (int i = 0; i < rows; i++) {
                int64_t at = (row + i) * dim + column;
                acc[i % 4] = fmaf(to_f32(dy[at]) * to_f32(x[at]), rstd[row + i], acc[i % 4]);
            }
        }
        s_sum[part][lane] = (acc[0] + acc[1]) + (acc[2] + acc[3]);
        __syncthreads();  // s_sum holds the sums of 32 blocks of rows
        if (live && part == 0) {
            int blocks = (int)min((int64_t)BLOCKS, ceil_div(n_rows - first, ROWS));
            for (int b = 0; b < blocks; b++) total += s_sum[b][lane];
        }
        __syncthreads();  // s_sum is read before it is written again
    }
    if (live && part == 0) dw[column] = total;
}

extern "C" __global__ void __launch_bounds__(COLUMNS * BLOCKS)
    rmsnorm_bwd_dw_f32(const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ rstd,
                       float* dw, int64_t n_rows, int32_t dim) {
    rmsnorm_bwd_dw(dy, x, rstd, dw, n_rows, dim);
}

extern "C" __global__ void __launch_bounds__(COLUMNS * BLOCKS)
    rmsnorm_bwd_dw_bf16(const bf16* __restrict__ dy, const bf16* __restrict__ x,
                        const float* __restrict__ rstd, float* dw, int64_t n_rows, int32_t dim) {
    rmsnorm_bwd_dw(dy, x, rstd, dw, n_rows, dim);
}
