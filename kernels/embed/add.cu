// add             y += x
//
// Shapes          x, y [N] f32
// Numerics        one sum in f32.
// Parallel        one thread 16 bytes of elements where rows allow it, else one.
// Cost            reads 8N bytes, writes 4N bytes. Memory bound.
// Sass            add: LDG.E.128 STG.E.128
// Determinism     an element's bits depend on that element alone; the bits of the CPU device.
// Source          plain.
// Oracle          src/ops/embed/oracle.rs
#include "common/types.cuh"

template <int N>
__device__ __forceinline__ void add(const float* __restrict__ x,  // [N]
                                    float* __restrict__ y,        // [N], +=
                                    int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (i >= n) return;
    Pack<float, N> a = load_pack<N>(x + i), sum = load_pack<N>(y + i);
#pragma unroll
    for (int j = 0; j < N; j++) sum.v[j] += a.v[j];
    store_pack(y + i, sum);
}

extern "C" __global__ void __launch_bounds__(256)
    add_f32(const float* __restrict__ x, float* __restrict__ y, int64_t n, int32_t vectors) {
    vectors ? add<PACK<float>>(x, y, n) : add<1>(x, y, n);
}
