// rmsnorm_fwd     y = x * rstd * w,   rstd = 1 / sqrt(mean_c(x^2) + eps)
//
// Shapes          x, y [N, C] f32 or bf16   w [C] the same   rstd [N] f32
// Numerics        sum of squares in f32; one rounding, at the store.
// Parallel        a block as many rows as have 4096 elements, 8 at most; its 128 threads load and store them, 16 bytes each
//                 where rows allow it, else one element; half a warp sums a row from shared memory: lane l the elements l,
//                 l + 16, ..., then halves are added, 8, 4, 2, 1.
// Cost            reads NC + C elements, writes NC elements and 4N bytes. Memory bound.
// Sass            rmsnorm: LDG.E.128 STG.E.128
// Sass sm_90a     rmsnorm: PREEXIT ACQBULK
// Determinism     a row's bits depend on that row alone; those of the CPU device.
// Requires        a row fits into shared memory.
// Source          Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
// Oracle          src/ops/norm/oracle.rs
#include "common/dependent.cuh"
#include "common/rows.cuh"

constexpr int THREADS = 128;

template <int N, typename T>
__device__ __forceinline__ void rmsnorm_fwd(const T* x,   // [N, C]
                                            const T* __restrict__ w,   // [C]
                                            T* __restrict__ y,         // [N, C]
                                            float* __restrict__ rstd,  // [N]
                                            int64_t n_rows, int32_t dim, float eps, int32_t rows) {
    SHARED_DYNAMIC(T, s_x);  // [rows, row_stride]
    __shared__ float s_rstd[THREADS / ROW_LANES];
    int64_t first = (int64_t)blockIdx.x * rows;
    int live = (int)min((int64_t)rows, n_rows - first), row = threadIdx.x / ROW_LANES, lane = threadIdx.x % ROW_LANES;
    await_predecessors();
    load_rows<N>(s_x, x + first * dim, live, dim);
    __syncthreads();  // s_x holds the rows
    float r = row_rstd(row < live, dim, eps, [=](int i) { return to_f32(s_x[row * row_stride(dim) + i]); });
    if (row < live && lane == 0) rstd[first + row] = s_rstd[row] = r;
    __syncthreads();  // s_rstd holds the rows'
    each_vector<N>(live, dim, [&](int i, int at, int column) {
        float r = s_rstd[i / dim];
        Pack<T, N> v = load_pack<N>(s_x + at), u = load_pack<N>(w + column);
#pragma unroll
        for (int e = 0; e < N; e++) v.v[e] = from_f32<T>(to_f32(v.v[e]) * r * to_f32(u.v[e]));
        store_pack(y + first * dim + i, v);
    });
}

template <typename T>
__device__ __forceinline__ void rmsnorm_fwd(const T* x, const T* __restrict__ w, T* __restrict__ y,
                                            float* __restrict__ rstd, int64_t n_rows, int32_t dim, float eps, int32_t rows,
                                            int32_t vectors) {
    vectors ? rmsnorm_fwd<PACK<T>>(x, w, y, rstd, n_rows, dim, eps, rows)
            : rmsnorm_fwd<1>(x, w, y, rstd, n_rows, dim, eps, rows);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_fwd_f32(const float* x, const float* __restrict__ w, float* __restrict__ y,
                    float* __restrict__ rstd, int64_t n_rows, int32_t dim, float eps, int32_t rows, int32_t vectors) {
    rmsnorm_fwd(x, w, y, rstd, n_rows, dim, eps, rows, vectors);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_fwd_bf16(const bf16* x, const bf16* __restrict__ w, bf16* __restrict__ y,
                     float* __restrict__ rstd, int64_t n_rows, int32_t dim, float eps, int32_t rows, int32_t vectors) {
    rmsnorm_fwd(x, w, y, rstd, n_rows, dim, eps, rows, vectors);
}
