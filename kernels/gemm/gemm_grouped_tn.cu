// gemm_grouped_tn c_e = sum_r a_r^T b_r or c_e += the same,   r the rows of expert e in ascending order
//
// Shapes          a [R, M]   b [R, N]   offsets [E + 1] i32: expert e has rows offsets[e]..   c [E, M, N];
//                 all f32, or a, b bf16 and c f32. The gradient of the weights of experts' linear layers.
// Numerics        f32: one chain of fused multiply-adds over an expert's rows, on CUDA cores. bf16: mma.sync m16n8k16 into
//                 f32. Both from zero or from c.
// Parallel        f32: tiles of 64 x 64. bf16: tiles of 128 x 128, 64 x 64. One block a tile of an expert.
// Cost            2RMN FLOP; reads RM + RN elements at least (again from L2 for each tile), writes EMN; when adding, experts
//                 without rows are left alone.
// Determinism     expert e's matrix has the bits of gemm_tn on its rows alone; in f32 those of the CPU device.
// Requires        offsets ascend from 0 to R.
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Source          common/gemm_grouped.cuh
// Oracle          src/ops/gemm_grouped/oracle.rs
#include "common/gemm_grouped.cuh"

extern "C" __global__ void __launch_bounds__(256)
    gemm_grouped_tn_f32(const float* __restrict__ a, const float* __restrict__ b, const int32_t* __restrict__ offsets,
                        float* c, int64_t m, int64_t n, int32_t add) {
    int64_t j0;
    GroupTile t = group_of_block<64, 64>(offsets, m, n, j0);
    if (add && t.rows == 0) return;
    gemm_f32_tile<true, true, 64, 64>(a + t.first * m, b + t.first * n, c + t.group * m * n, m, n, t.rows, add, t.i0, j0);
}

template <class Tile>
__device__ __forceinline__ void gemm_grouped_tn(const bf16* __restrict__ a,           // [R, M]
                                                const bf16* __restrict__ b,           // [R, N]
                                                const int32_t* __restrict__ offsets,  // [E + 1]
                                                float* c,                             // [E, M, N], = or +=
                                                int64_t m, int64_t n, int32_t add, int32_t vectors) {
    int64_t j0;
    GroupTile t = group_of_block<Tile::M, Tile::N>(offsets, m, n, j0);
    if (add && t.rows == 0) return;
    gemm_bf16_tile<Tile, true, true>(a + t.first * m, b + t.first * n, c + t.group * m * n, m, n, t.rows, add, vectors,
                                     t.i0, j0);
}

extern "C" __global__ void __launch_bounds__(Gemm128x128::THREADS, 2)
    gemm_grouped_tn_128x128_bf16_f32(const bf16* __restrict__ a, const bf16* __restrict__ b,
                                     const int32_t* __restrict__ offsets, float* c, int64_t m, int64_t n, int32_t add,
                                     int32_t vectors) {
    gemm_grouped_tn<Gemm128x128>(a, b, offsets, c, m, n, add, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm64x64::THREADS)
    gemm_grouped_tn_64x64_bf16_f32(const bf16* __restrict__ a, const bf16* __restrict__ b,
                                   const int32_t* __restrict__ offsets, float* c, int64_t m, int64_t n, int32_t add,
                                   int32_t vectors) {
    gemm_grouped_tn<Gemm64x64>(a, b, offsets, c, m, n, add, vectors);
}
