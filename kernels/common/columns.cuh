// Sums of columns over blocks of 64 rows: from zero, row i in chain i % 4 of four, the order of the CPU device.
#pragma once

#include "common/math.cuh"

constexpr int COLUMN_THREADS = 32;  // of a thread block, each with N columns
constexpr int COLUMN_ROWS = 64;
constexpr int CHAINS = 4;

// parts [ceil(n_rows / 64), dim] = the sums of what `add(acc, item, e)` adds to acc for column e of an item; `load(row, at)`
// is the item of N columns that begin at `at` of [n_rows, dim]. Four rows are loaded together.
template <int N, typename Load, typename Add>
__device__ __forceinline__ void column_sums(float* parts, int64_t n_rows, int32_t dim, Load load, Add add) {
    int64_t block = blockIdx.x, first = block * COLUMN_ROWS;
    int32_t column = (blockIdx.y * COLUMN_THREADS + threadIdx.x) * N;
    if (column >= dim) return;
    int rows = (int)min((int64_t)COLUMN_ROWS, n_rows - first);
    float acc[CHAINS][N] = {};
#pragma unroll 1
    for (int i = 0; i < rows; i += CHAINS) {
        decltype(load(first, first)) item[CHAINS] = {};
#pragma unroll
        for (int j = 0; j < CHAINS; j++) {
            if (i + j < rows) item[j] = load(first + i + j, (first + i + j) * dim + column);
        }
#pragma unroll
        for (int j = 0; j < CHAINS; j++) {
#pragma unroll
            for (int e = 0; e < N; e++) {
                if (i + j < rows) acc[j][e] = add(acc[j][e], item[j], e);
            }
        }
    }
    constexpr int EACH = N < PACK<float> ? N : PACK<float>;  // of a store
#pragma unroll
    for (int from = 0; from < N; from += EACH) {
        Pack<float, EACH> sum;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int c = from + e;
            sum.v[e] = (acc[0][c] + acc[1][c]) + (acc[2][c] + acc[3][c]);
        }
        store_pack(parts + block * dim + column + from, sum);
    }
}
