// The rows of a block of rmsnorm_fwd, of a cluster's blocks too (norm/weight.cuh).
#pragma once

#include "common/dependent.cuh"
#include "norm/weight.cuh"

constexpr int MOST_THREADS = 512;
constexpr int MOST_ROWS = 8;  // of a pass

template <int N, typename T>
__device__ __forceinline__ void rmsnorm_fwd(const T* x,   // [N, C]
                                            const T* __restrict__ w,   // [C]
                                            T* __restrict__ y,         // [N, C]
                                            float* __restrict__ rstd,  // [N]
                                            int64_t n_rows, int32_t dim, float eps, int32_t rows, int32_t passes) {
    SHARED_DYNAMIC(T, s_w);  // [row_stride], then rows of x [rows, row_stride]
    __shared__ float s_rstd[MOST_ROWS];
    T* s_x = s_w + row_stride(dim);
    int row = threadIdx.x / ROW_LANES, lane = threadIdx.x % ROW_LANES;
    int64_t begin = (int64_t)blockIdx.x * passes * rows;
    int mine = (int)min((int64_t)passes * rows, n_rows - begin);
    load_weight<N>(s_w, w, dim);
    await_predecessors();
    for (int done = 0; done < mine; done += rows) {
        int64_t first = begin + done;
        int live = min(rows, mine - done);
        load_rows<N>(s_x, x + first * dim, live, dim);
        __syncthreads();  // s_w, s_x hold the weight, the rows; s_rstd is read
        float r = row_rstd(row < live, dim, eps, [=](int i) { return to_f32(s_x[row * row_stride(dim) + i]); });
        if (row < live && lane == 0) s_rstd[row] = r;
        __syncthreads();  // s_rstd holds the rows'; of s_x a thread reads what it will load into again
        if ((int)threadIdx.x < live) rstd[first + threadIdx.x] = s_rstd[threadIdx.x];
        T* to = y + first * dim;
        const float* of_rows = s_rstd;  // an array would be copied into the body on the emulator
        each_vector<N>(live, dim, [=](int i, int at, int column) {
            float r = of_rows[i / dim];
            Pack<T, N> v = load_pack<N>(s_x + at), u = load_pack<N>(s_w + column);
#pragma unroll
            for (int e = 0; e < N; e++) v.v[e] = from_f32<T>(to_f32(v.v[e]) * r * to_f32(u.v[e]));
            store_pack(to + i, v);
        });
    }
}

template <typename T>
__device__ __forceinline__ void rmsnorm_fwd(const T* x, const T* __restrict__ w, T* __restrict__ y,
                                            float* __restrict__ rstd, int64_t n_rows, int32_t dim, float eps, int32_t rows,
                                            int32_t passes, int32_t vectors) {
    vectors ? rmsnorm_fwd<PACK<T>>(x, w, y, rstd, n_rows, dim, eps, rows, passes)
            : rmsnorm_fwd<1>(x, w, y, rstd, n_rows, dim, eps, rows, passes);
}
