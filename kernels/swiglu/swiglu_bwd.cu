// swiglu_bwd      dup = dh gate s,   dgate = dh up s (1 + gate (1 - s)),   s = 1 / (1 + e^-gate)
//
// Shapes          dh, gate, up, dgate, dup [N, F] f32 or bf16
// Numerics        f32; one rounding, at the store.
// Parallel        one thread 16 bytes of elements where rows allow it, else one.
// Cost            reads 3NF elements, writes 2NF. Memory bound.
// Sass            swiglu: LDG.E.128 STG.E.128
// Determinism     an element's bits depend on that element alone; those of the CPU device.
// Derivation      h = g s u, ds/dg = s (1 - s);  dh/dg = u (s + g s (1 - s)).
// Source          Shazeer 2020, arXiv:2002.05202, eq. 6.
// Oracle          src/ops/swiglu/oracle.rs
#include "common/math.cuh"

template <int N, typename T>
__device__ __forceinline__ void swiglu_bwd(const T* __restrict__ dh,    // [N, F]
                                           const T* __restrict__ gate,  // [N, F]
                                           const T* __restrict__ up,    // [N, F]
                                           T* __restrict__ dgate,       // [N, F], =
                                           T* __restrict__ dup,         // [N, F], =
                                           int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (i >= n) return;
    Pack<T, N> gates = load_pack<N>(gate + i), dhs = load_pack<N>(dh + i), ups = load_pack<N>(up + i), to_gate, to_up;
#pragma unroll
    for (int j = 0; j < N; j++) {
        float g = to_f32(gates.v[j]), d = to_f32(dhs.v[j]), u = to_f32(ups.v[j]);
        float s = 1.0f / (1.0f + exp_f32(-g));
        to_up.v[j] = from_f32<T>(d * (g * s));
        to_gate.v[j] = from_f32<T>(d * u * s * (1.0f + g * (1.0f - s)));
    }
    store_pack(dup + i, to_up);
    store_pack(dgate + i, to_gate);
}

template <typename T>
__device__ __forceinline__ void swiglu_bwd(const T* __restrict__ dh, const T* __restrict__ gate, const T* __restrict__ up,
                                           T* __restrict__ dgate, T* __restrict__ dup, int64_t n, int32_t vectors) {
    vectors ? swiglu_bwd<PACK<T>>(dh, gate, up, dgate, dup, n) : swiglu_bwd<1>(dh, gate, up, dgate, dup, n);
}

extern "C" __global__ void __launch_bounds__(256)
    swiglu_bwd_f32(const float* __restrict__ dh, const float* __restrict__ gate, const float* __restrict__ up,
                   float* __restrict__ dgate, float* __restrict__ dup, int64_t n, int32_t vectors) {
    swiglu_bwd(dh, gate, up, dgate, dup, n, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    swiglu_bwd_bf16(const bf16* __restrict__ dh, const bf16* __restrict__ gate, const bf16* __restrict__ up,
                    bf16* __restrict__ dgate, bf16* __restrict__ dup, int64_t n, int32_t vectors) {
    swiglu_bwd(dh, gate, up, dgate, dup, n, vectors);
}
