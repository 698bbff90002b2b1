// gemm_swiglu_sm90  s = silu(gate) up,   gate, up = h wg^T, h wu^T, on Hopper's copy engine and wgmma: the twin of gemm_swiglu
//
// Shapes          h [M, K]   wg, wu [N, K], all bf16, by tensor maps   gate, up [M, N] bf16, null where only s is wanted
//                 s [M, N] bf16
// Numerics        gate and up as gemm_nt_sm90, rounded like its store whether they are stored or not; then as swiglu_fwd.
// Parallel        the tile of 128 x 256 of gemm_nt_sm90, 128 columns of each matrix: of a thread's sums the first half are
//                 gate's, the second those of up on the same columns.
// Cost            as gemm_swiglu.
// Determinism     as gemm_nt_sm90.
// Requires        K % 8 == 0, K > 0, h, wg and wu on 16 bytes; sm_90a.
// Status          has not run on hardware: gemm_swiglu launches it only with HAGGLE_SM90=1. Has run on the emulator.
// Sass            sm90: UTMALDG.2D SYNCS.PHASECHK USETMAXREG HGMMA.64x256x16.F32.BF16
// Sass sm_90a     sm90: PREEXIT ACQBULK
// Source          common/gemm_sm90.cuh, common/gemm_pair.cuh
// Oracle          src/ops/gemm_fused/oracle.rs
#include "common/gemm_pair.cuh"
#include "common/gemm_sm90.cuh"

#ifdef HAGGLE_SM90
// copy_tile of rows i0.. of h and of columns j0.. of both matrices.
template <class T>
__device__ __forceinline__ void copy_pair(const RingSm90& ring, const TensorMap& h, const TensorMap& wg, const TensorMap& wu,
                                          int64_t i0, int64_t j0, int steps) {
    copy_steps<T>(
        ring, steps, 0,
        [&](bf16* s_to, uint64_t* s_full, int step) {
            copy_operand<false, T::M>(s_to, h, s_full, (int32_t)i0, step * GEMM_K);
        },
        [&](bf16* s_to, uint64_t* s_full, int step) {
            copy_operand<false, T::N / 2>(s_to, wg, s_full, (int32_t)j0, step * GEMM_K);
            copy_operand<false, T::N / 2>(s_to + T::N / 2 * GEMM_K, wu, s_full, (int32_t)j0, step * GEMM_K);
        });
}
#endif

extern "C" __global__ void __launch_bounds__(384, 1)
    gemm_swiglu_sm90_128x256_bf16(const __grid_constant__ TensorMap h, const __grid_constant__ TensorMap wg,
                                  const __grid_constant__ TensorMap wu, bf16* __restrict__ gate, bf16* __restrict__ up,
                                  bf16* __restrict__ s, int64_t m, int64_t n, int64_t k) {
#ifdef HAGGLE_SM90
    using T = Sm90Tile128x256;
    int64_t i0, j0;
    tile_of_block<T>(m, 2 * n, i0, j0);
    j0 /= 2;
    Swiglu<bf16> to = {gate, up, s, m, n};
    gemm_sm90_sums<T, false, false>(
        k, [&](const RingSm90& ring, int steps) { copy_pair<T>(ring, h, wg, wu, i0, j0, steps); },
        [](int, int) { return 0.0f; },
        [&](float (&acc)[T::N / 8][4]) {
            int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
            for (int j = 0; j < T::N / 16; j++) {
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const float(&gate)[4] = acc[j], (&up)[4] = acc[j + T::N / 16];
                    to.put(i0 + row + r * 8, j0 + column + j * 8, Pack<float, 2>{{gate[2 * r], gate[2 * r + 1]}},
                           Pack<float, 2>{{up[2 * r], up[2 * r + 1]}});
                }
            }
        });
#else
    __trap();  // other chips have the tiles of gemm_swiglu
#endif
}
