// grad_norm       sum of squares of a whole gradient, from those of its parts
//
// Shapes          parts [1024] f64, of grad_norm_parts   out [1] f32
// Numerics        f64; one rounding, at the store. NaN and infinity come through.
// Parallel        one warp fetches, one thread adds: 1024 additions.
// Cost            reads 8 KiB.
// Determinism     parts in order; the bits of the CPU device.
// Source          plain.
// Oracle          src/ops/optim/oracle.rs
#include "common/math.cuh"

constexpr int PARTS = 1024;

extern "C" __global__ void __launch_bounds__(32) grad_norm(const double* __restrict__ parts,  // [1024]
                                                           float* out) {                      // [1]
    __shared__ double s_part[PARTS];
    for (int i = threadIdx.x; i < PARTS; i += 32) s_part[i] = parts[i];
    __syncthreads();  // s_part holds the parts
    if (threadIdx.x != 0) return;
    double total = 0.0;
    for (int i = 0; i < PARTS; i++) total += s_part[i];
    out[0] = (float)total;
}
