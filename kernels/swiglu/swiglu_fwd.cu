// swiglu_fwd      h = silu(gate) up,   silu(g) = g / (1 + e^-g)
//
// Shapes          gate, up, h [N, F] f32 or bf16
// Numerics        f32; one rounding, at the store.
// Parallel        one thread 16 bytes of elements where rows allow it, else one.
// Cost            reads 2NF elements, writes NF. Memory bound.
// Sass            swiglu: LDG.E.128 STG.E.128
// Sass sm_90a     swiglu: PREEXIT ACQBULK
// Determinism     an element's bits depend on that element alone; those of the CPU device.
// Source          Shazeer 2020, arXiv:2002.05202, eq. 6.
// Oracle          src/ops/swiglu/oracle.rs
#include "common/dependent.cuh"
#include "common/math.cuh"

template <int N, typename T>
__device__ __forceinline__ void swiglu_fwd(const T* gate,  // [N, F]
                                           const T* up,    // [N, F]
                                           T* __restrict__ h,           // [N, F]
                                           int64_t n) {
    await_predecessors();
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (i >= n) return;
    Pack<T, N> g = load_pack<N>(gate + i), u = load_pack<N>(up + i), out;
#pragma unroll
    for (int j = 0; j < N; j++) out.v[j] = from_f32<T>(swiglu_f32(to_f32(g.v[j]), to_f32(u.v[j])));
    store_pack(h + i, out);
}

template <typename T>
__device__ __forceinline__ void swiglu_fwd(const T* gate, const T* up, T* __restrict__ h,
                                           int64_t n, int32_t vectors) {
    vectors ? swiglu_fwd<PACK<T>>(gate, up, h, n) : swiglu_fwd<1>(gate, up, h, n);
}

extern "C" __global__ void __launch_bounds__(256)
    swiglu_fwd_f32(const float* gate, const float* up, float* __restrict__ h, int64_t n,
                   int32_t vectors) {
    swiglu_fwd(gate, up, h, n, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    swiglu_fwd_bf16(const bf16* gate, const bf16* up, bf16* __restrict__ h, int64_t n,
                    int32_t vectors) {
    swiglu_fwd(gate, up, h, n, vectors);
}
