// rmsnorm_bwd     dx += rstd g - x rstd^3 mean_c(g x),   g = dy w
//
// Shapes          dy, x, dx [N, C] f32 or bf16   w [C] the same   rstd [N] f32
// Numerics        sums in f32; one rounding, at the store.
// Parallel        half a warp a row: lane l sums the elements l, l + 16, ..., then halves are added, 8, 4, 2, 1.
// Cost            reads 3NC + C elements and 4N bytes, writes NC elements. Memory bound.
// Determinism     a row's bits depend on that row alone; those of the CPU device.
// Derivation      y_i = x_i r w_i, dr/dx_j = -r^3 x_j / C;  dx_j = g_j r + (sum_i g_i x_i) dr/dx_j.
// Source          Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
// Oracle          src/ops/norm/oracle.rs
#include "common/reduce.cuh"

template <typename T>
__device__ __forceinline__ void rmsnorm_bwd(const T* __restrict__ dy,       // [N, C]
                                            const T* __restrict__ x,        // [N, C]
                                            const T* __restrict__ w,        // [C]
                                            const float* __restrict__ rstd,  // [N]
                                            T* dx,                           // [N, C], +=
                                            int64_t n_rows, int32_t dim) {
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 16) + threadIdx.x / 16;
    int lane = threadIdx.x % 16;
    bool live = row < n_rows;
    int64_t at = live ? row * dim : 0;
    // Rows past the end walk along with nothing to sum: every lane of a warp takes part in the shuffles.
    int32_t width = live ? dim : 0;
    float dot = 0.0f;
#pragma unroll 4
    for (int32_t i = lane; i < width; i += 16) {
        dot = fmaf(to_f32(dy[at + i]) * to_f32(w[i]), to_f32(x[at + i]), dot);
    }
    dot = lanes_sum<16>(dot);
    if (!live) return;
    float r = rstd[row];
    dot = dot * r * r * r / (float)dim;
#pragma unroll 4
    for (int32_t i = lane; i < width; i += 16) {
        float g = to_f32(dy[at + i]) * to_f32(w[i]);
        dx[at + i] = from_f32<T>(to_f32(dx[at + i]) + fmaf(g, r, -(to_f32(x[at + i]) * dot)));
    }
}

extern "C" __global__ void __launch_bounds__(128)
    rmsnorm_bwd_f32(const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ w,
                    const float* __restrict__ rstd, float* dx, int64_t n_rows, int32_t dim) {
    rmsnorm_bwd(dy, x, w, rstd, dx, n_rows, dim);
}

extern "C" __global__ void __launch_bounds__(128)
    rmsnorm_bwd_bf16(const bf16* __restrict__ dy, const bf16* __restrict__ x,
                     const bf16* __restrict__ w, const float* __restrict__ rstd, bf16* dx,
                     int64_t n_rows, int32_t dim) {
    rmsnorm_bwd(dy, x, w, rstd, dx, n_rows, dim);
}
