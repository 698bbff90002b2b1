// gemm_nt_sm90    c = a b^T or c += a b^T, on Hopper's copy engine and wgmma: the twin of gemm_nt on bf16
//
// Shapes          a [M, K]   b [N, K], both bf16, by tensor maps   c [M, N] bf16 or f32
// Numerics        wgmma m64n256k16, m64n128k16 or m64n32k16, of few rows mma.sync m16n8k16, into f32 over K in ascending order, from
//                 zero or from c; one rounding, at the store.
// Parallel        tiles of 128 x 256 and 128 x 128, 384 threads, two blocks a cluster; of 64 x 32, 160 threads, eight a cluster, for
//                 decode of tens of rows: common/gemm_sm90.cuh; of 16 x 32 and 16 x 8, 160 and 64 threads, eight a cluster, for
//                 decode of few: common/gemm_few_sm90.cuh; which: src/ops/gemm/tiles.rs.
// Cost            as gemm_nt.
// Determinism     one order of K for every M and N; on the emulator the bits of gemm_nt.
// Requires        K % 8 == 0, K > 0, a and b on 16 bytes; sm_90a.
// Sass            sm90: UTMALDG.2D.MULTICAST SYNCS.PHASECHK
// Sass            128x256: HGMMA.64x256x16.F32.BF16 USETMAXREG
// Sass            128x128: HGMMA.64x128x16.F32.BF16 USETMAXREG
// Sass            64x32: HGMMA.64x32x16.F32.BF16
// Sass            16x: HMMA.16816.F32.BF16 LDSM
// Sass sm_90a     sm90: PREEXIT ACQBULK
// Source          PTX ISA 9.0, "Asynchronous warpgroup level matrix instructions"; common/gemm_bf16.cuh for the order.
// Oracle          src/ops/gemm/oracle.rs
#include "common/gemm_few_sm90.cuh"

extern "C" __global__ void __launch_bounds__(384, 1) CLUSTER(2)
    gemm_nt_sm90_128x256_bf16(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16* c,
                              int64_t m, int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_sm90<Sm90Tile128x256, false, false>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have the tiles of gemm_nt
#endif
}

extern "C" __global__ void __launch_bounds__(384, 1) CLUSTER(2)
    gemm_nt_sm90_128x128_bf16(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16* c,
                              int64_t m, int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_sm90<Sm90Tile128x128, false, false>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have the tiles of gemm_nt
#endif
}

extern "C" __global__ void __launch_bounds__(384, 1) CLUSTER(2)
    gemm_nt_sm90_128x256_bf16_f32(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* c,
                                  int64_t m, int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_sm90<Sm90Tile128x256, false, false>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have the tiles of gemm_nt
#endif
}

extern "C" __global__ void __launch_bounds__(384, 1) CLUSTER(2)
    gemm_nt_sm90_128x128_bf16_f32(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* c,
                                  int64_t m, int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_sm90<Sm90Tile128x128, false, false>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have the tiles of gemm_nt
#endif
}

extern "C" __global__ void __launch_bounds__(160) CLUSTER(8)
    gemm_nt_sm90_64x32_bf16(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16* c,
                             int64_t m, int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_sm90<Sm90Tile64x32, false, false>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have the tiles of gemm_nt
#endif
}

extern "C" __global__ void __launch_bounds__(160) CLUSTER(8)
    gemm_nt_sm90_64x32_bf16_f32(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* c,
                                 int64_t m, int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_sm90<Sm90Tile64x32, false, false>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have the tiles of gemm_nt
#endif
}

extern "C" __global__ void __launch_bounds__(160) CLUSTER(8)
    gemm_nt_sm90_16x32_bf16(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16* c,
                            int64_t m, int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_few_sm90<FewSm90Tile16x32>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have the tiles of gemm_nt
#endif
}

extern "C" __global__ void __launch_bounds__(160) CLUSTER(8)
    gemm_nt_sm90_16x32_bf16_f32(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* c,
                                int64_t m, int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_few_sm90<FewSm90Tile16x32>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have the tiles of gemm_nt
#endif
}

extern "C" __global__ void __launch_bounds__(64) CLUSTER(8)
    gemm_nt_sm90_16x8_bf16(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16* c,
                           int64_t m, int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_few_sm90<FewSm90Tile16x8>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have the tiles of gemm_nt
#endif
}

extern "C" __global__ void __launch_bounds__(64) CLUSTER(8)
    gemm_nt_sm90_16x8_bf16_f32(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* c,
                               int64_t m, int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_few_sm90<FewSm90Tile16x8>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have the tiles of gemm_nt
#endif
}
