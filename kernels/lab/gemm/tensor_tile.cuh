// A tile of c = a b^T on tensor cores, 64 x 64 by four warps: what rungs v3 and v4 share.
//
// 64 steps of K are asked for (cp.async), waited for and multiplied, and only then the next ones are asked for. A slot is
// rows of eight chunks, a chunk eight neighbouring bf16, 16 bytes; what follows is all that the rungs differ in:
//
//   Layout::at(row, chunk)                  where a chunk stands, in chunks from the slot's first
//   Layout::rows_of(x, s_slot, i0, q)       the fragment 16 x 16 of rows i0.., steps q..
//   Layout::columns_of(y, s_slot, j0, q)    the fragments 16 x 8 of columns j0.. and j0 + 8.., steps q..
//
// Each element is one chain of mma.sync m16n8k16 over K in ascending order, rounded once: that of common/gemm_bf16.cuh.
#pragma once

#include "common/gemm_bf16.cuh"

using LabTile = Gemm64x64;
constexpr int LAB_CHUNKS = GEMM_K / 8;  // of a row of a slot

// Starts to copy 64 steps from q0 on of the rows i0.. of an operand [n, K]; what lies outside it becomes 0.
template <class Layout>
__device__ __forceinline__ void ask(bf16* s_slot, const bf16* __restrict__ from, int64_t i0, int64_t n, int64_t q0,
                                    int64_t k) {
    for (int i = threadIdx.x; i < 64 * LAB_CHUNKS; i += LabTile::THREADS) {
        int row = i / LAB_CHUNKS, chunk = i % LAB_CHUNKS;
        bool in = i0 + row < n && q0 + chunk * 8 < k;
        cp_async_16(s_slot + Layout::at(row, chunk) * 8, from + (in ? (i0 + row) * k + q0 + chunk * 8 : 0), in ? 16 : 0);
    }
}

template <class Layout>
__device__ __forceinline__ void tensor_tile(const bf16* __restrict__ a,  // [M, K]
                                            const bf16* __restrict__ b,  // [N, K]
                                            bf16* c,                     // [M, N]
                                            int64_t m, int64_t n, int64_t k) {
    SHARED_DYNAMIC(bf16, s_a);  // [64, 64], then the same of b
    bf16* s_b = s_a + LabTile::M * GEMM_K;
    int64_t i0 = (int64_t)blockIdx.y * LabTile::M, j0 = (int64_t)blockIdx.x * LabTile::N;
    int warp = threadIdx.x / 32;
    int wi = warp / LabTile::WARPS_N * LabTile::FRAGS_M * 16, wj = warp % LabTile::WARPS_N * LabTile::FRAGS_N * 8;
    float acc[LabTile::FRAGS_M][LabTile::FRAGS_N][4] = {};
    for (int64_t q0 = 0; q0 < k; q0 += GEMM_K) {
        ask<Layout>(s_a, a, i0, m, q0, k);
        ask<Layout>(s_b, b, j0, n, q0, k);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();  // the slot is written
#pragma unroll
        for (int q = 0; q < GEMM_K; q += 16) {
            uint32_t x[LabTile::FRAGS_M][4], y[LabTile::FRAGS_N / 2][2][2];
#pragma unroll
            for (int i = 0; i < LabTile::FRAGS_M; i++) Layout::rows_of(x[i], s_a, wi + i * 16, q);
#pragma unroll
            for (int j = 0; j < LabTile::FRAGS_N / 2; j++) Layout::columns_of(y[j], s_b, wj + j * 16, q);
#pragma unroll
            for (int i = 0; i < LabTile::FRAGS_M; i++) {
#pragma unroll
                for (int j = 0; j < LabTile::FRAGS_N; j++) mma_m16n8k16_bf16(acc[i][j], x[i], y[j / 2][j % 2]);
            }
        }
        __syncthreads();  // it is read before it is written again
    }
    each_element<LabTile>(acc, [&](int i, int j, float& x) {
        if (i0 + i < m && j0 + j < n) c[(i0 + i) * n + j0 + j] = from_f32<bf16>(x);
    });
}
