// Rows in shared memory: all threads of a block load them, 16 bytes each, then half a warp sums one in the order of a row's
// sums: lane l has the elements l, l + 16, ..., lanes are added as a tree.
#pragma once

#include "common/reduce.cuh"
#include "common/shared.cuh"

constexpr int ROW_LANES = 16;

// Elements from one row in shared memory to the next: the two rows that a warp reads side by side lie in different banks.
__device__ __forceinline__ int row_stride(int dim) { return dim + ROW_LANES; }

// Calls body(first element of the block's rows, the same in shared memory, column) for each vector of N elements of
// [n_rows, dim], all threads side by side.
template <int N, typename Body>
__device__ __forceinline__ void each_vector(int n_rows, int dim, Body body) {
#pragma unroll 4
    for (int i = threadIdx.x * N; i < n_rows * dim; i += blockDim.x * N) {
        int row = i / dim, column = i - row * dim;
        body(i, row * row_stride(dim) + column, column);
    }
}

// 1 / sqrt(mean(x^2) + eps) of a row of dim elements, by half a warp: element(i) is the i-th. A half warp that has no row walks
// along with nothing to sum: every lane of a warp takes part in the shuffles.
template <typename Element>
__device__ __forceinline__ float row_rstd(bool has, int32_t dim, float eps, Element element) {
    float sum = 0.0f;
#pragma unroll 8
    for (int i = threadIdx.x % ROW_LANES; i < (has ? dim : 0); i += ROW_LANES) {
        float v = element(i);
        sum = fmaf(v, v, sum);
    }
    return 1.0f / sqrtf(lanes_sum<ROW_LANES>(sum) / (float)dim + eps);
}

// x [n_rows, dim] into s_x [n_rows, row_stride].
template <int N, typename T>
__device__ __forceinline__ void load_rows(T* s_x, const T* x, int n_rows, int dim) {
    each_vector<N>(n_rows, dim, [=](int i, int at, int) { store_pack(s_x + at, load_pack<N>(x + i)); });
}
