// The rows of a block of rmsnorm_bwd, of a cluster's blocks too (norm/weight.cuh).
#pragma once

#include "norm/weight.cuh"

constexpr int THREADS = 128;
constexpr int MOST = 64;   // rows of a block
constexpr int PART = 64;   // rows that are summed from zero,
constexpr int CHAINS = 4;  // row i of them in chain i % 4

template <int N, typename T>
__device__ __forceinline__ void rmsnorm_bwd(const T* __restrict__ dy,        // [N, C]
                                            const T* __restrict__ x,         // [N, C]
                                            const T* __restrict__ w,         // [C]
                                            const float* __restrict__ rstd,  // [N]
                                            T* dx,                           // [N, C], +=
                                            float* parts,                    // [ceil(N / 64), 4, C], or null
                                            int64_t n_rows, int32_t dim, int32_t rows, int32_t passes, int32_t staged) {
    constexpr int M = N > 1 ? 2 : 1;  // columns that a thread sums side by side
    SHARED_DYNAMIC(float, s_sum);     // [C] where sums are staged, then w [row_stride], then dy and x [rows, row_stride]
    __shared__ float s_rstd[MOST], s_dot[THREADS / ROW_LANES];
    T *s_w = reinterpret_cast<T*>(s_sum + (staged ? dim : 0)), *s_dy = s_w + row_stride(dim);
    T* s_x = s_dy + rows * row_stride(dim);
    int row = threadIdx.x / ROW_LANES, lane = threadIdx.x % ROW_LANES;
    // The block's rows are first, first + step, ..., count of them.
    int step = parts != nullptr ? CHAINS : 1, chain = blockIdx.x % step;
    int64_t begin = (int64_t)(blockIdx.x / step) * (parts != nullptr ? PART : passes * rows), first = begin + chain;
    int together = (int)min((int64_t)(parts != nullptr ? PART : passes * rows), n_rows - begin);
    int count = (together - chain + step - 1) / step;
    // The chain's line of parts, in which the sums grow where shared memory has no room for them.
    float* to = parts + (int64_t)blockIdx.x * dim;
    float* sums = staged ? s_sum : to;
    load_weight<N>(s_w, w, dim);
    if ((int)threadIdx.x < count) s_rstd[threadIdx.x] = rstd[first + threadIdx.x * step];
    if (parts != nullptr) {
        for (int c = threadIdx.x * M; c < dim; c += THREADS * M) store_pack(sums + c, Pack<float, M>{});
    }
    for (int done = 0; done < count; done += rows) {
        int live = min(rows, count - done);
        // Where vector i of the pass, `at` in shared memory, is in the tensors.
        auto place = [=](int i, int at) {
            return first * dim + i + (int64_t)(done * step + (at - i) / ROW_LANES * (step - 1)) * dim;
        };
        each_vector<N>(live, dim, [&](int i, int at, int) {
            store_pack(s_dy + at, load_pack<N>(dy + place(i, at)));
            store_pack(s_x + at, load_pack<N>(x + place(i, at)));
        });
        __syncthreads();  // s_w, s_rstd, s_dy, s_x are there; s_dot is read
        float dot = 0.0f;
        // Half warps without a row walk along with nothing to sum: every lane of a warp takes part in the shuffles.
#pragma unroll 4
        for (int i = lane; i < (row < live ? dim : 0); i += ROW_LANES) {
            int at = row * row_stride(dim) + i;
            dot = fmaf(to_f32(s_dy[at]) * to_f32(s_w[i]), to_f32(s_x[at]), dot);
        }
        dot = lanes_sum<ROW_LANES>(dot);
        if (row < live && lane == 0) {
            float r = s_rstd[done + row];
            s_dot[row] = dot * r * r * r / (float)dim;
        }
        if (parts != nullptr) {
            for (int c = threadIdx.x * M; c < dim; c += THREADS * M) {
                Pack<float, M> sum = load_pack<M>(sums + c);
                for (int i = 0; i < live; i++) {
                    Pack<T, M> g = load_pack<M>(s_dy + i * row_stride(dim) + c), v = load_pack<M>(s_x + i * row_stride(dim) + c);
#pragma unroll
                    for (int e = 0; e < M; e++) sum.v[e] = fmaf(to_f32(g.v[e]) * to_f32(v.v[e]), s_rstd[done + i], sum.v[e]);
                }
                store_pack(sums + c, sum);
            }
        }
        __syncthreads();  // s_dot holds the rows'; of s_dy, s_x a thread reads what it will load into again
        each_vector<N>(live, dim, [&](int i, int at, int column) {
            float r = s_rstd[done + (at - i) / ROW_LANES], d = s_dot[(at - i) / ROW_LANES];
            Pack<T, N> gy = load_pack<N>(s_dy + at), v = load_pack<N>(s_x + at), u = load_pack<N>(s_w + column);
            Pack<T, N> out = load_pack<N>(dx + place(i, at));
#pragma unroll
            for (int e = 0; e < N; e++) {
                float g = to_f32(gy.v[e]) * to_f32(u.v[e]);
                out.v[e] = from_f32<T>(to_f32(out.v[e]) + fmaf(g, r, -(to_f32(v.v[e]) * d)));
            }
            store_pack(dx + place(i, at), out);
        });
    }
    if (!staged) return;
    for (int c = threadIdx.x * M; c < dim; c += THREADS * M) store_pack(to + c, load_pack<M>(s_sum + c));
}

template <typename T>
__device__ __forceinline__ void rmsnorm_bwd(const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ w,
                                            const float* __restrict__ rstd, T* dx, float* parts, int64_t n_rows, int32_t dim,
                                            int32_t rows, int32_t passes, int32_t staged, int32_t vectors) {
    vectors ? rmsnorm_bwd<PACK<T>>(dy, x, w, rstd, dx, parts, n_rows, dim, rows, passes, staged)
            : rmsnorm_bwd<1>(dy, x, w, rstd, dx, parts, n_rows, dim, rows, passes, staged);
}
