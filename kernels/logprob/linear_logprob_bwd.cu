// linear_logprob_bwd     gradient of a block of logits
//
// With p = softmax(z / temperature), H its entropy:
//   d logprob / dz_v = 1[v = target] - p_v       d H / dz_v = -p_v (ln p_v + H)       all times 1 / temperature.
// dx = dz w and dw += dz^T x are gemm_nn and gemm_tn.
//
// Shapes          z [R, W] f32, raw logits of R rows and the W tokens from `first` on   dz [R, W] f32, in place of z, or
//                 bf16, dz_at floats behind z; dlogprob, dentropy, lse, entropy [R] f32   target [R] i32
// Numerics        f32; one rounding, at the store.
// Parallel        one thread four tokens; blocks of 1024 tokens of one row.
// Cost            reads 4RW bytes, writes 4RW (bf16: 2RW). ~25 RW FLOP. Memory bound, in L2.
// Determinism     elementwise; in f32 the bits of the CPU device.
// Source          the derivatives above.
// Oracle          src/ops/logprob/oracle.rs
#include "common/logprob.cuh"

constexpr int PER_THREAD = 4;

template <class T>
__device__ __forceinline__ void linear_logprob_bwd(const float* __restrict__ dlogprob,  // [R]
                                                   const float* __restrict__ dentropy,  // [R]
                                                   const int32_t* __restrict__ target,  // [R]
                                                   const float* __restrict__ lse,       // [R]
                                                   const float* __restrict__ entropy,   // [R]
                                                   const float* z,                      // [R, W]
                                                   T* dz,                               // [R, W], may be z
                                                   int32_t width, int32_t first, float inv_temperature) {
    int64_t row = blockIdx.x;
    LogitGradient gradient = {dlogprob[row], dentropy[row], lse[row], entropy[row], inv_temperature};
    int32_t hit = target[row] - first;
#pragma unroll
    for (int e = 0; e < PER_THREAD; e++) {
        int32_t v = (int32_t)blockIdx.y * 256 * PER_THREAD + e * 256 + (int32_t)threadIdx.x;
        if (v >= width) return;
        dz[row * width + v] = from_f32<T>(gradient.of(z[row * width + v], v == hit));
    }
}

extern "C" __global__ void __launch_bounds__(256)
    linear_logprob_bwd_f32(const float* __restrict__ dlogprob, const float* __restrict__ dentropy,
                           const int32_t* __restrict__ target, const float* __restrict__ lse,
                           const float* __restrict__ entropy, float* z, int64_t dz_at, int32_t width, int32_t first,
                           float inv_temperature) {
    linear_logprob_bwd(dlogprob, dentropy, target, lse, entropy, z, z + dz_at, width, first, inv_temperature);
}

extern "C" __global__ void __launch_bounds__(256)
    linear_logprob_bwd_bf16(const float* __restrict__ dlogprob, const float* __restrict__ dentropy,
                            const int32_t* __restrict__ target, const float* __restrict__ lse,
                            const float* __restrict__ entropy, float* z, int64_t dz_at, int32_t width, int32_t first,
                            float inv_temperature) {
    bf16* dz = reinterpret_cast<bf16*>(z + dz_at);
    linear_logprob_bwd(dlogprob, dentropy, target, lse, entropy, z, dz, width, first, inv_temperature);
}
