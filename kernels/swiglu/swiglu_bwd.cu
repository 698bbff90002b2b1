// swiglu_bwd      dup = dh gate s,   dgate = dh up s (1 + gate (1 - s)),   s = 1 / (1 + e^-gate)
//
// Shapes          dh, gate, up, dgate, dup [N, F] f32 or bf16
// Numerics        f32; one rounding, at the store.
// Parallel        one thread an element.
// Cost            reads 3NF elements, writes 2NF. Memory bound.
// Determinism     an element's bits depend on that element alone; those of the CPU device.
// Derivation      h = g s u, ds/dg = s (1 - s);  dh/dg = u (s + g s (1 - s)).
// Source          Shazeer 2020, arXiv:2002.05202, eq. 6.
// Oracle          src/ops/swiglu/oracle.rs
#include "common/math.cuh"

template <typename T>
__device__ __forceinline__ void swiglu_bwd(const T* __restrict__ dh,    // [N, F]
                                           const T* __restrict__ gate,  // [N, F]
                                           const T* __restrict__ up,    // [N, F]
                                           T* __restrict__ dgate,       // [N, F], =
                                           T* __restrict__ dup,         // [N, F], =
                                           int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float g = to_f32(gate[i]), d = to_f32(dh[i]), u = to_f32(up[i]);
    float s = 1.0f / (1.0f + exp_f32(-g));
    dup[i] = from_f32<T>(d * (g * s));
    dgate[i] = from_f32<T>(d * u * s * (1.0f + g * (1.0f - s)));
}

extern "C" __global__ void __launch_bounds__(256)
    swiglu_bwd_f32(const float* __restrict__ dh, const float* __restrict__ gate, const float* __restrict__ up,
                   float* __restrict__ dgate, float* __restrict__ dup, int64_t n) {
    swiglu_bwd(dh, gate, up, dgate, dup, n);
}

extern "C" __global__ void __launch_bounds__(256)
    swiglu_bwd_bf16(const bf16* __restrict__ dh, const bf16* __restrict__ gate,
                    const bf16* __restrict__ up, bf16* __restrict__ dgate,
                    bf16* __restrict__ dup, int64_t n) {
    swiglu_bwd(dh, gate, up, dgate, dup, n);
}
