// lab_gemm_v7_wgmma   c = a b^T, by the copy engine and wgmma
//
// One thread asks the copy engine for whole tiles, an mbarrier says when they have come, and two warpgroups multiply 64 rows each by
// wgmma, which reads both operands from shared memory itself: no fragment passes through registers.
//
// Shapes          a [M, K]   b [N, K], both bf16, by tensor maps   c [M, N] bf16, = or, when `add`, +=: as gemm_nt_sm90 takes them
// Numerics        wgmma m64n256k16 into f32 over K in ascending order, one rounding, at the store.
// Parallel        one block a tile of 128 x 256 of c, 384 threads: common/gemm_sm90.cuh, of a cluster that is a block.
// Cost            2MNK FLOP; reads 3MNK / 256 elements, from the second-level cache 48 KB in the time of 64 steps.
// Determinism     the bits of gemm_nt in bf16.
// Requires        K % 8 == 0, K > 0, a and b on 16 bytes; sm_90a.
// Sass            sm90: HGMMA.64x256x16.F32.BF16 UTMALDG.2D SYNCS.PHASECHK USETMAXREG
// Source          PTX ISA, "Asynchronous warpgroup level matrix instructions".
// Oracle          src/ops/gemm/oracle.rs
#include "common/gemm_sm90.cuh"

extern "C" __global__ void __launch_bounds__(384, 1)
    lab_gemm_v7_wgmma_sm90_bf16(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16* c, int64_t m,
                                int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_sm90<TileSm90<128, 256, 4, 1, 1>, false, false>(a, b, c, m, n, k, add);
#else
    __trap();  // other chips end at the rung before
#endif
}
