// linear_logprob_bwd_sm90   logits of a block and their gradient at once, on Hopper's copy engine and wgmma
//
// The twin of gemm_nt into f32 and linear_logprob_bwd_bf16 after it: logits exist in registers alone. dx = dz w and
// dw += dz^T x are gemm_nn and gemm_tn.
//
// Shapes          x [R, C]   w [W, C], of the W tokens from `first` on, both bf16, by tensor maps   dz [R, W] bf16
//                 dlogprob, dentropy, lse, entropy [R] f32   target [R] i32
// Numerics        wgmma m64n256k16 into f32 over C in ascending order; the gradient in f32, one rounding, at the store.
// Parallel        tiles of 128 x 256, 384 threads: common/gemm_sm90.cuh.
// Cost            2RCW + ~25 RW FLOP; reads 2(R + W)C bytes at least, writes 2RW.
// Determinism     one order of C for every R and W; on the emulator the bits of the twin.
// Requires        C % 8 == 0, C > 0, x and w on 16 bytes; sm_90a.
// Status          has not run on hardware: linear_logprob_bwd launches it only with HAGGLE_SM90=1. Has run on the emulator.
// Sass            sm90: HGMMA.64x256x16.F32.BF16 UTMALDG.2D SYNCS.PHASECHK USETMAXREG
// Source          the derivatives in linear_logprob_bwd.cu.
// Oracle          src/ops/logprob/oracle.rs
#include "common/gemm_sm90.cuh"
#include "common/logprob.cuh"

#ifdef HAGGLE_SM90

__device__ __forceinline__ void linear_logprob_bwd_sm90(const TensorMap& x,                   // [R, C]
                                                        const TensorMap& w,                   // [W, C]
                                                        const float* __restrict__ dlogprob,   // [R]
                                                        const float* __restrict__ dentropy,   // [R]
                                                        const int32_t* __restrict__ target,   // [R]
                                                        const float* __restrict__ lse,        // [R]
                                                        const float* __restrict__ entropy,    // [R]
                                                        bf16* dz,                             // [R, W]
                                                        int64_t n_rows, int32_t width, int32_t first, int32_t dim,
                                                        float inv_temperature) {
    using T = Sm90Tile128x256;
    SHARED_DYNAMIC(bf16, s_dynamic);
    RingSm90 ring = start_ring<T>(s_dynamic);
    int64_t i0, j0;
    tile_of_block<T>(n_rows, width, i0, j0);
    int steps = (int)ceil_div(dim, GEMM_K);
    if (threadIdx.x >= T::COPIES) {
        setmaxnreg_dec<40>();
        if (threadIdx.x == T::COPIES) copy_tile<T, false, false>(ring, x, w, i0, j0, steps, 0);
        return;
    }
    setmaxnreg_inc<232>();
    float acc[T::N / 8][4];
    each_sum(acc, [](int, int, float& z) { z = 0.0f; });
    multiply_tile<T, false, false>(ring, acc, steps, 0);
    int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t i = i0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + half * 8;
        if (i >= n_rows) continue;
        LogitGradient row = {dlogprob[i], dentropy[i], lse[i], entropy[i], inv_temperature};
        int64_t hit = (int64_t)target[i] - first;
        bf16* to = dz + i * width;
#pragma unroll
        for (int j = 0; j < T::N / 8; j++) {
            int64_t v = j0 + j * 8 + column;
            bf16 a = from_f32<bf16>(row.of(acc[j][2 * half], v == hit));
            bf16 b = from_f32<bf16>(row.of(acc[j][2 * half + 1], v + 1 == hit));
            if (width % 2 == 0 && v < width) {
                store_pack(to + v, Pack<bf16, 2>{{a, b}});
            } else {
                if (v < width) to[v] = a;
                if (v + 1 < width) to[v + 1] = b;
            }
        }
    }
}

#endif

extern "C" __global__ void __launch_bounds__(384, 1)
    linear_logprob_bwd_sm90_bf16(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w,
                                 const float* __restrict__ dlogprob, const float* __restrict__ dentropy,
                                 const int32_t* __restrict__ target, const float* __restrict__ lse,
                                 const float* __restrict__ entropy, bf16* dz, int64_t n_rows, int32_t width,
                                 int32_t first, int32_t dim, float inv_temperature) {
#ifdef HAGGLE_SM90
    linear_logprob_bwd_sm90(x, w, dlogprob, dentropy, target, lse, entropy, dz, n_rows, width, first, dim,
                            inv_temperature);
#else
    __trap();  // other chips have gemm_nt_*_bf16_f32 and linear_logprob_bwd_bf16
#endif
}
