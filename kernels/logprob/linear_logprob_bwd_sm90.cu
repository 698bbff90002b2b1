// linear_logprob_bwd_sm90   logits of a block and their gradient at once, on Hopper's copy engine and wgmma
//
// The twin of gemm_nt into f32 and linear_logprob_bwd_bf16 after it: logits exist in registers alone. dx = dz w and
// dw += dz^T x are gemm_nn and gemm_tn.
//
// Shapes          x [R, C]   w [W, C], of the W tokens from `first` on, both bf16, by tensor maps   dz [R, W] bf16
//                 dlogprob, dentropy, lse, entropy [R] f32   target [R] i32
// Numerics        wgmma m64n256k16 into f32 over C in ascending order; the gradient in f32, one rounding, at the store.
// Parallel        tiles of 128 x 256, 384 threads, two blocks a cluster: common/gemm_sm90.cuh.
// Cost            2RCW + ~25 RW FLOP; reads 2(R + W)C bytes at least, writes 2RW.
// Determinism     one order of C for every R and W; on the emulator the bits of the twin.
// Requires        C % 8 == 0, C > 0, x and w on 16 bytes; sm_90a.
// Sass            sm90: HGMMA.64x256x16.F32.BF16 UTMALDG.2D.MULTICAST SYNCS.PHASECHK USETMAXREG STG.E.128
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
    __shared__ alignas(16) bf16 s_panels[T::M * 64];
    RingSm90 ring = start_ring<T>(s_dynamic);
    int64_t i0, j0;
    tile_of_block<T>(n_rows, width, i0, j0);
    int steps = (int)ceil_div(dim, GEMM_K);
    if (threadIdx.x >= T::MULTIPLIES) {
        setmaxnreg_dec<40>();
        if (threadIdx.x != T::MULTIPLIES) return;
        copy_tile<T, false, false>(ring, x, w, i0, j0, steps, 0);
        await_readers<T>(ring, steps);
        return;
    }
    setmaxnreg_inc<232>();
    float acc[T::N / 8][4] = {};
    multiply_tile<T, false, false>(ring, acc, steps, 0);
    LogitGradient rows[2];
    int64_t hits[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int64_t i = i0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + r * 8, known = min(i, n_rows - 1);
        rows[r] = {dlogprob[known], dentropy[known], lse[known], entropy[known], inv_temperature};
        hits[r] = (int64_t)target[known] - first;
    }
    int64_t column = j0 + threadIdx.x % 4 * 2;
    each_eight<T::N>(
        s_panels,
        [&](int j, int r) {
            int64_t v = column + j * 8;
            Pack<float, 2> z = two_sums(acc[j], r);
            return rounded<bf16>(Pack<float, 2>{{rows[r].of(z.v[0], v == hits[r]), rows[r].of(z.v[1], v + 1 == hits[r])}});
        },
        [&](int i, int j, const bf16* s_eight) {
            if (i0 + i < n_rows) store_16_live(dz + (i0 + i) * width + j0 + j, width - j0 - j, s_eight);
        });
}

#endif

extern "C" __global__ void __launch_bounds__(384, 1) CLUSTER(2)
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
