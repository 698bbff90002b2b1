// gemm_nt         c = a b^T or c += a b^T
//
// Shapes          a [M, K]   b [N, K]   c [M, N]; all f32, or a, b bf16 and c bf16 or f32
//                 The forward of a linear layer.
// Numerics        f32: one chain of fused multiply-adds over K, on CUDA cores. bf16: mma.sync m16n8k16 into f32, one
//                 rounding, at the store. Both from zero or from c.
// Parallel        f32: tiles of 64 x 64, for few rows (decode) 16 x 64. bf16: tiles of 128 x 128, 64 x 64, 64 x 32,
//                 16 x 32, 16 x 8: decode brings whole rows of b through deep rings, and never cuts K.
//                 Which: src/ops/gemm/tiles.rs.
// Cost            2MNK FLOP; reads MK + NK elements at least (again from L2 for each tile), writes MN.
// Determinism     an element's bits depend on its row and column alone, never on M, N or the tile; in f32 those of the
//                 CPU device.
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Sass sm_90a     gemm: PREEXIT ACQBULK
// Sass sm_90a     bf16: UBLKPF.L2
// Source          common/gemm_f32.cuh, common/gemm_bf16.cuh
// Oracle          src/ops/gemm/oracle.rs
#include "common/gemm_bf16.cuh"
#include "common/gemm_f32.cuh"

extern "C" __global__ void __launch_bounds__(256)
    gemm_nt_f32(const float* a, const float* __restrict__ b, float* c, int64_t m, int64_t n, int64_t k,
                int32_t add) {
    gemm_f32<false, false, 64, 64>(a, b, c, m, n, k, add);
}

extern "C" __global__ void __launch_bounds__(64)
    gemm_nt_few_f32(const float* a, const float* __restrict__ b, float* c, int64_t m, int64_t n, int64_t k,
                    int32_t add) {
    gemm_f32<false, false, 16, 64>(a, b, c, m, n, k, add);
}

extern "C" __global__ void __launch_bounds__(Gemm128x128::THREADS, 2)
    gemm_nt_128x128_bf16(const bf16* a, const bf16* __restrict__ b, bf16* c, int64_t m, int64_t n,
                         int64_t k, int32_t add, int32_t vectors) {
    gemm_bf16<Gemm128x128, false, false>(a, b, c, m, n, k, add, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm64x64::THREADS)
    gemm_nt_64x64_bf16(const bf16* a, const bf16* __restrict__ b, bf16* c, int64_t m, int64_t n, int64_t k,
                       int32_t add, int32_t vectors) {
    gemm_bf16<Gemm64x64, false, false>(a, b, c, m, n, k, add, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm64x32::THREADS)
    gemm_nt_64x32_bf16(const bf16* a, const bf16* __restrict__ b, bf16* c, int64_t m, int64_t n, int64_t k,
                       int32_t add, int32_t vectors) {
    gemm_bf16<Gemm64x32, false, false>(a, b, c, m, n, k, add, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm16x32::THREADS)
    gemm_nt_16x32_bf16(const bf16* a, const bf16* __restrict__ b, bf16* c, int64_t m, int64_t n, int64_t k,
                       int32_t add, int32_t vectors) {
    gemm_bf16<Gemm16x32, false, false>(a, b, c, m, n, k, add, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm16x8::THREADS)
    gemm_nt_16x8_bf16(const bf16* a, const bf16* __restrict__ b, bf16* c, int64_t m, int64_t n, int64_t k,
                      int32_t add, int32_t vectors) {
    gemm_bf16<Gemm16x8, false, false>(a, b, c, m, n, k, add, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm128x128::THREADS, 2)
    gemm_nt_128x128_bf16_f32(const bf16* a, const bf16* __restrict__ b, float* c, int64_t m, int64_t n,
                             int64_t k, int32_t add, int32_t vectors) {
    gemm_bf16<Gemm128x128, false, false>(a, b, c, m, n, k, add, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm64x64::THREADS)
    gemm_nt_64x64_bf16_f32(const bf16* a, const bf16* __restrict__ b, float* c, int64_t m, int64_t n,
                           int64_t k, int32_t add, int32_t vectors) {
    gemm_bf16<Gemm64x64, false, false>(a, b, c, m, n, k, add, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm64x32::THREADS)
    gemm_nt_64x32_bf16_f32(const bf16* a, const bf16* __restrict__ b, float* c, int64_t m, int64_t n,
                           int64_t k, int32_t add, int32_t vectors) {
    gemm_bf16<Gemm64x32, false, false>(a, b, c, m, n, k, add, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm16x32::THREADS)
    gemm_nt_16x32_bf16_f32(const bf16* a, const bf16* __restrict__ b, float* c, int64_t m, int64_t n,
                           int64_t k, int32_t add, int32_t vectors) {
    gemm_bf16<Gemm16x32, false, false>(a, b, c, m, n, k, add, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm16x8::THREADS)
    gemm_nt_16x8_bf16_f32(const bf16* a, const bf16* __restrict__ b, float* c, int64_t m, int64_t n,
                          int64_t k, int32_t add, int32_t vectors) {
    gemm_bf16<Gemm16x8, false, false>(a, b, c, m, n, k, add, vectors);
}
