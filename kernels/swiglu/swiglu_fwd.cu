// swiglu_fwd      h = silu(gate) up,   silu(g) = g / (1 + e^-g)
//
// Shapes          gate, up, h [N, F] f32 or bf16
// Numerics        f32; one rounding, at the store.
// Parallel        one thread an element.
// Cost            reads 2NF elements, writes NF. Memory bound.
// Determinism     an element's bits depend on that element alone; those of the CPU device.
// Source          Shazeer 2020, arXiv:2002.05202, eq. 6.
// Oracle          src/ops/swiglu/oracle.rs
#include "common/math.cuh"

template <typename T>
__device__ __forceinline__ void swiglu_fwd(const T* __restrict__ gate,  // [N, F]
                                           const T* __restrict__ up,    // [N, F]
                                           T* __restrict__ h,           // [N, F]
                                           int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float g = to_f32(gate[i]);
    h[i] = from_f32<T>(g / (1.0f + exp_f32(-g)) * to_f32(up[i]));
}

extern "C" __global__ void __launch_bounds__(256)
    swiglu_fwd_f32(const float* __restrict__ gate, const float* __restrict__ up, float* __restrict__ h, int64_t n) {
    swiglu_fwd(gate, up, h, n);
}

extern "C" __global__ void __launch_bounds__(256)
    swiglu_fwd_bf16(const bf16* __restrict__ gate, const bf16* __restrict__ up,
                    bf16* __restrict__ h, int64_t n) {
    swiglu_fwd(gate, up, h, n);
}
