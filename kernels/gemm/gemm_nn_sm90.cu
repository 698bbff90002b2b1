// gemm_nn_sm90    c = a b or c += a b, on Hopper's copy engine and wgmma: the twin of gemm_nn on bf16
//
// Shapes          a [M, K]   b [K, N], both bf16, by tensor maps   c [M, N] bf16
// Numerics        wgmma m64n256k16 or m64n128k16 into f32 over K in ascending order, from zero or from c; one rounding, at the store.
// Parallel        tiles of 128 x 256 and 128 x 128, 384 threads, two blocks a cluster: common/gemm_sm90.cuh; which: src/ops/gemm/tiles.rs.
// Cost            as gemm_nn.
// Determinism     one order of K for every M and N; on the emulator the bits of gemm_nn.
// Requires        K % 8 == 0, N % 8 == 0, K > 0, a and b on 16 bytes; sm_90a.
// Sass            sm90: UTMALDG.2D.MULTICAST SYNCS.PHASECHK STG.E.128
// Sass            128x256: HGMMA.64x256x16.F32.BF16 USETMAXREG
// Sass            128x128: HGMMA.64x128x16.F32.BF16 USETMAXREG
// Source          PTX ISA 9.0, "Asynchronous warpgroup level matrix instructions"; common/gemm_bf16.cuh for the order.
// Oracle          src/ops/gemm/oracle.rs
#include "common/gemm_sm90.cuh"

extern "C" __global__ void __launch_bounds__(384, 1) CLUSTER(2)
    gemm_nn_sm90_128x256_bf16(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16* c,
                              int64_t m, int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_sm90<Sm90Tile128x256, false, true>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have the tiles of gemm_nn
#endif
}

extern "C" __global__ void __launch_bounds__(384, 1) CLUSTER(2)
    gemm_nn_sm90_128x128_bf16(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16* c,
                              int64_t m, int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_sm90<Sm90Tile128x128, false, true>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have the tiles of gemm_nn
#endif
}
