// gemm_grouped_nt y_r = x_r w_e^T or y_r += x_r w_e^T,   e the expert of row r
//
// Shapes          a [R, K]   b [E, N, K]   offsets [E + 1] i32: expert e has rows offsets[e].. of a and c   c [R, N];
//                 all f32, or all bf16. The forward of experts' linear layers.
// Numerics        f32: one chain of fused multiply-adds over K, on CUDA cores. bf16: mma.sync m16n8k16 into f32, one
//                 rounding, at the store. Both from zero or from c.
// Parallel        tiles as in gemm_nt, chosen by rows an expert; a warp finds its block's expert in offsets.
// Cost            2RNK FLOP; reads RK elements and the NK of each expert that has rows, writes RN.
// Determinism     an element has the bits of gemm_nt on its row alone: it sees neither R nor how rows are shared out.
// Requires        offsets ascend from 0 to R.
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Sass sm_90a     gemm: PREEXIT ACQBULK
// Source          common/gemm_grouped.cuh
// Oracle          src/ops/gemm_grouped/oracle.rs
#include "common/gemm_grouped.cuh"

extern "C" __global__ void __launch_bounds__(256)
    gemm_grouped_nt_f32(const float* a, const float* __restrict__ b, const int32_t* offsets,
                        float* c, int32_t n_groups, int64_t n, int64_t k, int32_t add) {
    gemm_grouped_f32<false, 64, 64>(a, b, offsets, c, n_groups, n, k, add);
}

extern "C" __global__ void __launch_bounds__(64)
    gemm_grouped_nt_few_f32(const float* a, const float* __restrict__ b,
                            const int32_t* offsets, float* c, int32_t n_groups, int64_t n, int64_t k,
                            int32_t add) {
    gemm_grouped_f32<false, 16, 64>(a, b, offsets, c, n_groups, n, k, add);
}

extern "C" __global__ void __launch_bounds__(Gemm128x128::THREADS, 2)
    gemm_grouped_nt_128x128_bf16(const bf16* a, const bf16* __restrict__ b,
                                 const int32_t* offsets, bf16* c, int32_t n_groups, int64_t n, int64_t k,
                                 int32_t add, int32_t vectors) {
    gemm_grouped_bf16<Gemm128x128, false>(a, b, offsets, c, n_groups, n, k, add, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm64x64::THREADS)
    gemm_grouped_nt_64x64_bf16(const bf16* a, const bf16* __restrict__ b,
                               const int32_t* offsets, bf16* c, int32_t n_groups, int64_t n, int64_t k,
                               int32_t add, int32_t vectors) {
    gemm_grouped_bf16<Gemm64x64, false>(a, b, offsets, c, n_groups, n, k, add, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm16x32::THREADS)
    gemm_grouped_nt_16x32_bf16(const bf16* a, const bf16* __restrict__ b,
                               const int32_t* offsets, bf16* c, int32_t n_groups, int64_t n, int64_t k,
                               int32_t add, int32_t vectors) {
    gemm_grouped_bf16<Gemm16x32, false>(a, b, offsets, c, n_groups, n, k, add, vectors);
}
