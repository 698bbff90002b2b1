// shapley_table   Shapley values of a game given by its 2^K values
//
// phi_i = sum_{S without i} |S|! (K - |S| - 1)! / K! (v(S + i) - v(S))
//
// Shapes          values [n, 2^K] f32, bit i of an index says that i is in the set   phi [n, K] f32
// Numerics        f64; one rounding, at the store.
// Parallel        one block a value; thread t adds the sets t, t + 256, ... of those without i, then a tree of halves.
// Cost            reads 4n K 2^K bytes (L2 serves all but the first 4n 2^K), writes 4nK; 1.5 nK 2^K FLOP in f64.
// Determinism     one order of the sum; the bits of the CPU device.
// Requires        K <= 16
// Source          Shapley 1953, "A value for n-person games".
// Oracle          src/ops/credit/oracle.rs
#include "common/types.cuh"

constexpr int THREADS = 256;
constexpr int MAX_K = 16;

extern "C" __global__ void __launch_bounds__(THREADS)
    shapley_table(const float* __restrict__ values,  // [n, 2^K]
                  float* phi,                        // [n, K]
                  int32_t k) {
    __shared__ double s_weight[MAX_K];
    __shared__ double s_sum[THREADS];
    int64_t at = blockIdx.x;
    int who = (int)(at % k), t = threadIdx.x;
    const float* v = values + ((at / k) << k);
    if (t == 0) {
        double sets = 1.0;
        for (int size = 0; size < k; size++) {
            s_weight[size] = 1.0 / ((double)k * sets);
            sets = sets * (double)(k - 1 - size) / (double)(size + 1);
        }
    }
    __syncthreads();  // s_weight holds the weight of a set by its size
    uint32_t low = (1u << who) - 1;
    double sum = 0.0;
    for (uint32_t m = t; m < 1u << (k - 1); m += THREADS) {
        uint32_t without = (m & ~low) << 1 | (m & low);
        double added = (double)v[without | 1u << who] - (double)v[without];
        sum += s_weight[__popc(m)] * added;
    }
    s_sum[t] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();  // s_sum holds the sums of twice as many lanes
        if (t < half) s_sum[t] += s_sum[t + half];
    }
    if (t == 0) phi[at] = (float)s_sum[0];
}
