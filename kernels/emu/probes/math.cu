// Elementary functions by themselves: for tests/emu/features.rs.
#include "common/math.cuh"

// y [n] = 2^x of x [n]
extern "C" __global__ void __launch_bounds__(256) probe_exp2(const float* __restrict__ x, float* __restrict__ y, int32_t n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = exp2_log_prob_f32(x[i]);
}
