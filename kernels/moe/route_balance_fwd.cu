// route_balance_fwd  loss = E sum_e f_e mean_e,   f_e = counts_e / N
//
// Shapes          mean [E] f32, counts [E] i32, of route_balance_mean   loss [1] f32
// Numerics        f32. f counts a token once for each of its A experts, so that even routing has a loss of A.
// Parallel        half a warp: lane l sums the experts l, l + 16, ..., then halves are added, 8, 4, 2, 1.
// Cost            reads 8E bytes. Latency bound.
// Determinism     one order of the sum; the bits of the CPU device.
// Requires        N > 0
// Source          Fedus, Zoph and Shazeer 2021, arXiv:2101.03961, eq. 4.
// Oracle          src/ops/moe/oracle.rs
#include "common/reduce.cuh"

extern "C" __global__ void __launch_bounds__(32)
    route_balance_fwd(const float* __restrict__ mean,      // [E]
                      const int32_t* __restrict__ counts,  // [E]
                      float* __restrict__ loss,            // [1]
                      int64_t n_rows, int32_t n_experts) {
    int lane = threadIdx.x % 16;
    float sum = 0.0f;
    for (int32_t e = lane; e < n_experts; e += 16) sum += (float)counts[e] / (float)n_rows * mean[e];
    sum = lanes_sum<16>(sum);
    if (threadIdx.x == 0) loss[0] = (float)n_experts * sum;
}
