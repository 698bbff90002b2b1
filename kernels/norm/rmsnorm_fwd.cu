// rmsnorm_fwd     y = x * rstd * w,   rstd = 1 / sqrt(mean_c(x^2) + eps)
//
// Shapes          x, y [N, C] f32 or bf16   w [C] the same   rstd [N] f32
// Numerics        sum of squares in f32; one rounding, at the store.
// Parallel        half a warp a row: lane l sums the elements l, l + 16, ..., then halves are added, 8, 4, 2, 1.
// Cost            reads 2NC + C elements (the second NC from cache), writes NC elements and 4N bytes. Memory bound.
// Determinism     a row's bits depend on that row alone; those of the CPU device.
// Source          Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
// Oracle          src/ops/norm/oracle.rs
#include "common/reduce.cuh"

template <typename T>
__device__ __forceinline__ void rmsnorm_fwd(const T* __restrict__ x,  // [N, C]
                                            const T* __restrict__ w,  // [C]
                                            T* __restrict__ y,        // [N, C]
                                            float* __restrict__ rstd,  // [N]
                                            int64_t n_rows, int32_t dim, float eps) {
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 16) + threadIdx.x / 16;
    int lane = threadIdx.x % 16;
    bool live = row < n_rows;
    int64_t at = live ? row * dim : 0;
    // Rows past the end walk along with nothing to sum: every lane of a warp takes part in the shuffles.
    int32_t width = live ? dim : 0;
    float sum = 0.0f;
#pragma unroll 4
    for (int32_t i = lane; i < width; i += 16) {
        float v = to_f32(x[at + i]);
        sum = fmaf(v, v, sum);
    }
    sum = lanes_sum<16>(sum);
    if (!live) return;
    float r = 1.0f / sqrtf(sum / (float)dim + eps);
    if (lane == 0) rstd[row] = r;
#pragma unroll 4
    for (int32_t i = lane; i < width; i += 16) y[at + i] = from_f32<T>(to_f32(x[at + i]) * r * to_f32(w[i]));
}

extern "C" __global__ void __launch_bounds__(128)
    rmsnorm_fwd_f32(const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ y,
                    float* __restrict__ rstd, int64_t n_rows, int32_t dim, float eps) {
    rmsnorm_fwd(x, w, y, rstd, n_rows, dim, eps);
}

extern "C" __global__ void __launch_bounds__(128)
    rmsnorm_fwd_bf16(const bf16* __restrict__ x, const bf16* __restrict__ w, bf16* __restrict__ y,
                     float* __restrict__ rstd, int64_t n_rows, int32_t dim, float eps) {
    rmsnorm_fwd(x, w, y, rstd, n_rows, dim, eps);
}
