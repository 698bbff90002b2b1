// bias_bwd_parts  sums of dy over each block of 64 rows: first half of bias_bwd
//
// Shapes          dy [N, F] f32 or bf16   parts [ceil(N / 64), F] f32
// Numerics        f32; from zero, four chains a block of rows.
// Parallel        one thread a column of a block of rows.
// Cost            reads NF elements, writes NF / 16 bytes. Memory bound.
// Determinism     one order of every sum, whatever the grid; the bits of the CPU device.
// Source          Vaswani et al. 2017, arXiv:1706.03762, eq. 2.
// Oracle          src/ops/bias/oracle.rs
#include "common/math.cuh"

constexpr int COLUMNS = 128;  // of a thread block
constexpr int ROWS = 64;

template <typename T>
__device__ __forceinline__ void bias_bwd_parts(const T* __restrict__ dy,  // [N, F]
                                               float* parts,              // [ceil(N / 64), F]
                                               int64_t n_rows, int32_t dim) {
    int64_t block = blockIdx.x, row = block * ROWS;
    int32_t column = blockIdx.y * COLUMNS + threadIdx.x;
    if (column >= dim) return;
    int rows = (int)min((int64_t)ROWS, n_rows - row);
    float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 8
    for (int i = 0; i < rows; i++) acc[i % 4] += to_f32(dy[(row + i) * dim + column]);
    parts[block * dim + column] = (acc[0] + acc[1]) + (acc[2] + acc[3]);
}

extern "C" __global__ void __launch_bounds__(COLUMNS)
    bias_bwd_parts_f32(const float* __restrict__ dy, float* parts, int64_t n_rows, int32_t dim) {
    bias_bwd_parts(dy, parts, n_rows, dim);
}

extern "C" __global__ void __launch_bounds__(COLUMNS)
    bias_bwd_parts_bf16(const bf16* __restrict__ dy, float* parts, int64_t n_rows, int32_t dim) {
    bias_bwd_parts(dy, parts, n_rows, dim);
}
