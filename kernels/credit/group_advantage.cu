// group_advantage   a = (r - mean) / (std + 1e-6)  or  r - mean,  by group
//
// Shapes          rewards, advantage [n, G] f32   constant [n] i32: 1 where all rewards of a group are the same
// Numerics        f64 sums in the order of the group; one rounding, at the store. Constant groups are exactly 0.
// Parallel        one thread a group. A block brings its groups' rewards into shared memory, side by side, an odd number of
//                 floats a group, and takes the advantages out of there; where a group is too large for it a thread reads
//                 and writes memory.
// Cost            reads 4nG bytes, writes 4nG + 4n. Memory bound, and tiny: n groups a step.
// Determinism     a group's bits depend on that group alone; those of the CPU device.
// Source          Shao et al. 2024, arXiv:2402.03300, eq. 3; Liu et al. 2025, arXiv:2503.20783 (mean alone).
// Oracle          src/ops/credit/oracle.rs
#include "common/shared.cuh"
#include "common/types.cuh"

extern "C" __global__ void __launch_bounds__(128, 1)
    group_advantage(const float* __restrict__ rewards,  // [n, G]
                    float* advantage,                   // [n, G]
                    int32_t* constant,                  // [n]
                    int64_t n, int32_t group, int32_t divide_by_std, int32_t staged) {
    SHARED_DYNAMIC(float, s_r);  // [groups, G | 1] where they are staged
    int64_t first = (int64_t)blockIdx.x * blockDim.x, i = first + threadIdx.x;
    int32_t live = (int32_t)min((int64_t)blockDim.x, n - first), stride = staged ? group | 1 : group;
    if (staged) {
        for (int32_t at = threadIdx.x; at < live * group; at += blockDim.x) {
            s_r[at / group * stride + at % group] = rewards[first * group + at];
        }
        __syncthreads();  // s_r holds the rewards
    }
    if (i < n) {
        const float* r = staged ? s_r + threadIdx.x * stride : rewards + i * group;
        float* a = staged ? s_r + threadIdx.x * stride : advantage + i * group;
        bool same = true;
        double sum = 0.0, squares = 0.0;
        for (int32_t g = 0; g < group; g++) {
            same = same && r[g] == r[0];
            sum += (double)r[g];
        }
        double mean = sum / (double)group;
        for (int32_t g = 0; g < group; g++) squares += ((double)r[g] - mean) * ((double)r[g] - mean);
        double scale = divide_by_std ? 1.0 / (sqrt(squares / (double)group) + 1e-6) : 1.0;
        for (int32_t g = 0; g < group; g++) a[g] = same ? 0.0f : (float)(((double)r[g] - mean) * scale);
        constant[i] = same;
    }
    if (!staged) return;
    __syncthreads();  // s_r holds the advantages
    for (int32_t at = threadIdx.x; at < live * group; at += blockDim.x) {
        advantage[first * group + at] = s_r[at / group * stride + at % group];
    }
}
