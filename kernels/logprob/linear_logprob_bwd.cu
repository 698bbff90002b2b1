// linear_logprob_bwd     gradient of a block of logits, in place
//
// With p = softmax(z / temperature), H its entropy:
//   d logprob / dz_v = 1[v = target] - p_v       d H / dz_v = -p_v (ln p_v + H)       all times 1 / temperature.
// dx = dz w and dw += dz^T x are gemm_nn and gemm_tn.
//
// Shapes          z [R, W] f32, raw logits of R rows and the W tokens from `first` on, becomes dz [R, W]
//                 dlogprob, dentropy, lse, entropy [R] f32   target [R] i32
// Numerics        f32; one rounding, at the store.
// Parallel        one thread four tokens; blocks of 1024 tokens of one row.
// Cost            reads 4RW bytes, writes 4RW. ~25 RW FLOP. Memory bound, in L2.
// Determinism     elementwise; the bits of the CPU device.
// Source          the derivatives above.
// Oracle          src/oracle/logprob.rs
#include "common/math.cuh"

constexpr int PER_THREAD = 4;

extern "C" __global__ void __launch_bounds__(256)
    linear_logprob_bwd_f32(const float* __restrict__ dlogprob,  // [R]
                           const float* __restrict__ dentropy,  // [R]
                           const int32_t* __restrict__ target,  // [R]
                           const float* __restrict__ lse,       // [R]
                           const float* __restrict__ entropy,   // [R]
                           float* z,                            // [R, W], becomes dz
                           int32_t width, int32_t first, float inv_temperature) {
    int64_t row = blockIdx.x;
    float d = dlogprob[row], dh = dentropy[row], l = lse[row], h = entropy[row];
    int32_t hit = target[row] - first;
    float* of = z + row * width;
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++) {
        int32_t v = (int32_t)blockIdx.y * 256 * PER_THREAD + e * 256 + (int32_t)threadIdx.x;
        if (v >= width) return;
        float log_p = of[v] * inv_temperature - l;
        float dz = -inv_temperature * exp_f32(log_p) * fmaf(dh, log_p + h, d);
        of[v] = v == hit ? dz + inv_temperature * d : dz;
    }
}
