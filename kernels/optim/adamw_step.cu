// adamw_step      m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
//                 w -= lr (m c1 / (sqrt(v c2) + eps) + decay w),  c = 1 / (1 - b^t),  g scaled first (clipping)
//
// Shapes          g, w, m, v [N] f32; w is the master   w_bf16 [N] bf16: a rounded copy of w, or null
// Numerics        f32; the bias corrections come from the host, in f64 there.
// Parallel        one thread an element.
// Cost            reads 16N bytes, writes 12N (14N with the copy). Memory bound.
// Determinism     elementwise; the bits of the CPU device.
// Source          Loshchilov and Hutter 2017, arXiv:1711.05101, alg. 2.
// Oracle          src/ops/optim/oracle.rs
#include "common/math.cuh"

extern "C" __global__ void __launch_bounds__(256)
    adamw_step(const float* __restrict__ g,  // [N]
               float* __restrict__ w,        // [N]
               float* __restrict__ m,        // [N]
               float* __restrict__ v,        // [N]
               bf16* __restrict__ w_bf16,    // [N] or null
               int64_t n, float lr, float beta1, float beta2, float eps, float weight_decay, float grad_scale, float c1,
               float c2) {
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= n) return;
    float x = g[i] * grad_scale;
    float first = beta1 * m[i] + (1.0f - beta1) * x;
    float second = beta2 * v[i] + (1.0f - beta2) * x * x;
    float update = first * c1 / (sqrtf(second * c2) + eps);
    float next = w[i] - lr * (update + weight_decay * w[i]);
    m[i] = first;
    v[i] = second;
    w[i] = next;
    if (w_bf16) w_bf16[i] = from_f32<bf16>(next);
}
