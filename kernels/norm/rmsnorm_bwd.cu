// rmsnorm_bwd     dx += rstd g - x rstd^3 mean_c(g x),   g = dy w
//
// Shapes          dy, x, dx [N, C] f32 or bf16   w [C] the same   rstd [N] f32
// Numerics        sums in f32; one rounding, at the store.
// Parallel        as rmsnorm_fwd: a block some rows, loaded and stored by 16 bytes where rows allow it, half a warp a sum.
// Cost            reads 3NC + C elements and 4N bytes, writes NC elements. Memory bound.
// Sass            rmsnorm: LDG.E.128 STG.E.128
// Determinism     a row's bits depend on that row alone; those of the CPU device.
// Requires        two rows and w fit into shared memory.
// Derivation      y_i = x_i r w_i, dr/dx_j = -r^3 x_j / C;  dx_j = g_j r + (sum_i g_i x_i) dr/dx_j.
// Source          Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
// Oracle          src/ops/norm/oracle.rs
#include "common/rows.cuh"

constexpr int THREADS = 128;

template <int N, typename T>
__device__ __forceinline__ void rmsnorm_bwd(const T* __restrict__ dy,       // [N, C]
                                            const T* __restrict__ x,        // [N, C]
                                            const T* __restrict__ w,        // [C]
                                            const float* __restrict__ rstd,  // [N]
                                            T* dx,                           // [N, C], +=
                                            int64_t n_rows, int32_t dim, int32_t rows) {
    SHARED_DYNAMIC(T, s_w);  // w [row_stride], then dy and x [rows, row_stride]
    __shared__ float s_dot[THREADS / ROW_LANES];
    T *s_dy = s_w + row_stride(dim), *s_x = s_dy + rows * row_stride(dim);
    int64_t first = (int64_t)blockIdx.x * rows;
    int live = (int)min((int64_t)rows, n_rows - first), row = threadIdx.x / ROW_LANES, lane = threadIdx.x % ROW_LANES;
    load_rows<N>(s_w, w, 1, dim);
    load_rows<N>(s_dy, dy + first * dim, live, dim);
    load_rows<N>(s_x, x + first * dim, live, dim);
    __syncthreads();  // s_w, s_dy, s_x are there
    float dot = 0.0f;
    // Half warps without a row walk along with nothing to sum: every lane of a warp takes part in the shuffles.
#pragma unroll 4
    for (int i = lane; i < (row < live ? dim : 0); i += ROW_LANES) {
        int at = row * row_stride(dim) + i;
        dot = fmaf(to_f32(s_dy[at]) * to_f32(s_w[i]), to_f32(s_x[at]), dot);
    }
    dot = lanes_sum<ROW_LANES>(dot);
    if (row < live && lane == 0) {
        float r = rstd[first + row];
        s_dot[row] = dot * r * r * r / (float)dim;
    }
    __syncthreads();  // s_dot holds the rows'
    each_vector<N>(live, dim, [&](int i, int at, int column) {
        float r = rstd[first + i / dim], d = s_dot[i / dim];
        Pack<T, N> gy = load_pack<N>(s_dy + at), v = load_pack<N>(s_x + at), u = load_pack<N>(s_w + column);
        Pack<T, N> out = load_pack<N>(dx + first * dim + i);
#pragma unroll
        for (int e = 0; e < N; e++) {
            float g = to_f32(gy.v[e]) * to_f32(u.v[e]);
            out.v[e] = from_f32<T>(to_f32(out.v[e]) + fmaf(g, r, -(to_f32(v.v[e]) * d)));
        }
        store_pack(dx + first * dim + i, out);
    });
}

template <typename T>
__device__ __forceinline__ void rmsnorm_bwd(const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ w,
                                            const float* __restrict__ rstd, T* dx, int64_t n_rows, int32_t dim,
                                            int32_t rows, int32_t vectors) {
    vectors ? rmsnorm_bwd<PACK<T>>(dy, x, w, rstd, dx, n_rows, dim, rows)
            : rmsnorm_bwd<1>(dy, x, w, rstd, dx, n_rows, dim, rows);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_bwd_f32(const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ w,
                    const float* __restrict__ rstd, float* dx, int64_t n_rows, int32_t dim, int32_t rows,
                    int32_t vectors) {
    rmsnorm_bwd(dy, x, w, rstd, dx, n_rows, dim, rows, vectors);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_bwd_bf16(const bf16* __restrict__ dy, const bf16* __restrict__ x, const bf16* __restrict__ w,
                     const float* __restrict__ rstd, bf16* dx, int64_t n_rows, int32_t dim, int32_t rows,
                     int32_t vectors) {
    rmsnorm_bwd(dy, x, w, rstd, dx, n_rows, dim, rows, vectors);
}
