// add             y += x
//
// Shapes          x, y [N] f32
// Numerics        one sum in f32.
// Parallel        one thread an element.
// Cost            reads 8N bytes, writes 4N bytes. Memory bound.
// Determinism     an element's bits depend on that element alone; the bits of the CPU device.
// Source          plain.
// Oracle          src/ops/embed/oracle.rs
#include "common/types.cuh"

extern "C" __global__ void __launch_bounds__(256)
    add_f32(const float* __restrict__ x,  // [N]
            float* __restrict__ y,        // [N], +=
            int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += x[i];
}
