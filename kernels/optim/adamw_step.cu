// adamw_step      m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
//                 w -= lr (m c1 / (sqrt(v c2) + eps) + decay w),  c = 1 / (1 - b^t),  g scaled first (clipping)
//
// Shapes          g, w [N] f32; w is the master   m, v [N] f32 or bf16   w_bf16 [N] bf16: a rounded copy of w, or null
// Numerics        f32; the bias corrections come from the host, in f64 there. Moments in bf16 are rounded at the store
//                 alone, up or down by chance, by the share of the way there: a mean is kept. To the nearest, a v whose
//                 decay 1 - b2 is less than half a step of bf16 (1/512) would never fall. The noise is Philox at (step,
//                 element), 16 bits a moment.
// Parallel        one thread an element.
// Cost            reads 16N bytes, writes 12N (bf16: 12N, 8N); 2N more with the copy. Memory bound.
// Determinism     elementwise; the bits of the CPU device.
// Source          Loshchilov and Hutter 2017, arXiv:1711.05101, alg. 2; rounding: Gupta et al. 2015, arXiv:1502.02551.
// Oracle          src/ops/optim/oracle.rs
#include "common/math.cuh"
#include "common/philox.cuh"

__device__ __forceinline__ void store(float* to, float x, uint32_t) { *to = x; }

// x up or down to a bf16, by 16 bits of chance.
__device__ __forceinline__ void store(bf16* to, float x, uint32_t chance) {
    *to = from_f32<bf16>(__uint_as_float((__float_as_uint(x) + chance) & 0xFFFF0000u));
}

template <typename M>
__device__ __forceinline__ void adamw_step(const float* __restrict__ g,  // [N]
                                           float* __restrict__ w,        // [N]
                                           M* __restrict__ m,            // [N]
                                           M* __restrict__ v,            // [N]
                                           bf16* __restrict__ w_bf16,    // [N] or null
                                           int64_t n, float lr, float beta1, float beta2, float eps,
                                           float weight_decay, float grad_scale, float c1, float c2, uint64_t step,
                                           uint64_t element) {
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= n) return;
    float x = g[i] * grad_scale;
    float first = beta1 * to_f32(m[i]) + (1.0f - beta1) * x;
    float second = beta2 * to_f32(v[i]) + (1.0f - beta2) * x * x;
    float update = first * c1 / (sqrtf(second * c2) + eps);
    float next = w[i] - lr * (update + weight_decay * w[i]);
    uint32_t chance = sizeof(M) == 4 ? 0 : (uint32_t)noise_bits(0, step, element + (uint64_t)i);
    store(m + i, first, chance & 0xFFFFu);
    store(v + i, second, chance >> 16);
    w[i] = next;
    if (w_bf16) w_bf16[i] = from_f32<bf16>(next);
}

extern "C" __global__ void __launch_bounds__(256)
    adamw_step_f32(const float* __restrict__ g, float* __restrict__ w, float* __restrict__ m, float* __restrict__ v,
                   bf16* __restrict__ w_bf16, int64_t n, float lr, float beta1, float beta2, float eps,
                   float weight_decay, float grad_scale, float c1, float c2, uint64_t step, uint64_t element) {
    adamw_step(g, w, m, v, w_bf16, n, lr, beta1, beta2, eps, weight_decay, grad_scale, c1, c2, step, element);
}

extern "C" __global__ void __launch_bounds__(256)
    adamw_step_bf16(const float* __restrict__ g, float* __restrict__ w, bf16* __restrict__ m, bf16* __restrict__ v,
                    bf16* __restrict__ w_bf16, int64_t n, float lr, float beta1, float beta2, float eps,
                    float weight_decay, float grad_scale, float c1, float c2, uint64_t step, uint64_t element) {
    adamw_step(g, w, m, v, w_bf16, n, lr, beta1, beta2, eps, weight_decay, grad_scale, c1, c2, step, element);
}
