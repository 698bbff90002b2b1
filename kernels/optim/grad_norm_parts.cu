// grad_norm_parts   sums of squares of 1024 parts of a gradient: first half of grad_norm
//
// Shapes          g [N] f32   parts [1024] f64
// Numerics        squares and sums in f64.
// Parallel        one block a part of consecutive elements; thread t has the elements t, t + 64, ...
// Cost            reads 4N bytes. Memory bound.
// Determinism     parts and lanes depend on N alone; lanes are added in order; the bits of the CPU device.
// Source          plain.
// Oracle          src/ops/optim/oracle.rs
#include "common/math.cuh"

constexpr int THREADS = 64;

extern "C" __global__ void __launch_bounds__(THREADS)
    grad_norm_parts(const float* __restrict__ g,  // [N]
                    double* parts,                // [1024]
                    int64_t n, int64_t part) {
    __shared__ double s_sum[THREADS];
    int64_t from = blockIdx.x * part, to = from + part < n ? from + part : n;
    double sum = 0.0;
#pragma unroll 8
    for (int64_t i = from + threadIdx.x; i < to; i += THREADS) {
        double x = g[i];
        sum += x * x;
    }
    s_sum[threadIdx.x] = sum;
    __syncthreads();  // s_sum holds the lanes
    if (threadIdx.x != 0) return;
    double total = 0.0;
    for (int l = 0; l < THREADS; l++) total += s_sum[l];
    parts[blockIdx.x] = total;
}
