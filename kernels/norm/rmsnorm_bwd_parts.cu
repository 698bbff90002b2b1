// rmsnorm_bwd_parts   sums of dy x rstd over each block of 64 rows: first half of rmsnorm_bwd's dw
//
// Shapes          dy, x [N, C] f32 or bf16   rstd [N] f32   parts [ceil(N / 64), C] f32
// Numerics        f32; from zero, four chains a block of rows.
// Parallel        one thread a column of a block of rows.
// Cost            reads 2NC elements and 4N bytes, writes NC / 16 bytes. Memory bound.
// Determinism     one order of every sum, whatever the grid.
// Source          Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
// Oracle          src/ops/norm/oracle.rs
#include "common/math.cuh"

constexpr int COLUMNS = 128;  // of a thread block
constexpr int ROWS = 64;

template <typename T>
__device__ __forceinline__ void rmsnorm_bwd_parts(const T* __restrict__ dy,       // [N, C]
                                                  const T* __restrict__ x,        // [N, C]
                                                  const float* __restrict__ rstd,  // [N]
                                                  float* parts,                    // [ceil(N / 64), C]
                                                  int64_t n_rows, int32_t dim) {
    int64_t block = blockIdx.x, row = block * ROWS;
    int32_t column = blockIdx.y * COLUMNS + threadIdx.x;
    if (column >= dim) return;
    int rows = (int)min((int64_t)ROWS, n_rows - row);
    float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 8
    for (int i = 0; i < rows; i++) {
        int64_t at = (row + i) * dim + column;
        acc[i % 4] = fmaf(to_f32(dy[at]) * to_f32(x[at]), rstd[row + i], acc[i % 4]);
    }
    parts[block * dim + column] = (acc[0] + acc[1]) + (acc[2] + acc[3]);
}

extern "C" __global__ void __launch_bounds__(COLUMNS)
    rmsnorm_bwd_parts_f32(const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ rstd,
                          float* parts, int64_t n_rows, int32_t dim) {
    rmsnorm_bwd_parts(dy, x, rstd, parts, n_rows, dim);
}

extern "C" __global__ void __launch_bounds__(COLUMNS)
    rmsnorm_bwd_parts_bf16(const bf16* __restrict__ dy, const bf16* __restrict__ x, const float* __restrict__ rstd,
                           float* parts, int64_t n_rows, int32_t dim) {
    rmsnorm_bwd_parts(dy, x, rstd, parts, n_rows, dim);
}
