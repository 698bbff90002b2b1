// shapley_table   Shapley values of a game given by its 2^K values
//
// phi_i = sum_{S without i} |S|! (K - |S| - 1)! / K! (v(S + i) - v(S))
//
// Shapes          values [n, 2^K] f32, bit i of an index says that i is in the set   phi [n, K] f32
// Numerics        f64; one rounding, at the store.
// Parallel        one block a game, whose table stands in shared memory, or one block a value where that has no room for it.
//                 Thread t adds the sets t, t + 256, ... of those without i, then a tree of halves.
// Cost            reads 4n 2^K bytes, with a block a value K times that (L2 serves all but the first), writes 4nK; 1.5 nK 2^K
//                 FLOP in f64.
// Determinism     one order of the sum; the bits of the CPU device.
// Requires        K <= 16
// Source          Shapley 1953, "A value for n-person games".
// Oracle          src/ops/credit/oracle.rs
#include "common/shared.cuh"
#include "common/types.cuh"

constexpr int THREADS = 256;
constexpr int STRIDE = THREADS + 1;  // of a value's sums, so that those of a lane lie in different banks
constexpr int MAX_K = 16;

extern "C" __global__ void __launch_bounds__(THREADS)
    shapley_table(const float* __restrict__ values,  // [n, 2^K]
                  float* phi,                        // [n, K]
                  int32_t k, int32_t each) {
    SHARED_DYNAMIC(double, s_sum);  // [each, STRIDE], then the table [2^K] where each, the values of a block, is K
    __shared__ double s_weight[MAX_K];
    float* s_table = reinterpret_cast<float*>(s_sum + each * STRIDE);
    int64_t at = (int64_t)blockIdx.x * each;
    int first = (int)(at % k), t = threadIdx.x;
    const float* v = values + ((at / k) << k);
    bool staged = each == k;
    for (uint32_t i = t; staged && i < 1u << k; i += THREADS) s_table[i] = v[i];
    if (t == 0) {
        double sets = 1.0;
        for (int size = 0; size < k; size++) {
            s_weight[size] = 1.0 / ((double)k * sets);
            sets = sets * (double)(k - 1 - size) / (double)(size + 1);
        }
    }
    __syncthreads();  // s_weight holds the weight of a set by its size, s_table the game
    if (staged) v = s_table;
    for (int i = 0; i < each; i++) {
        int who = first + i;
        uint32_t low = (1u << who) - 1;
        double sum = 0.0;
        for (uint32_t m = t; m < 1u << (k - 1); m += THREADS) {
            uint32_t without = (m & ~low) << 1 | (m & low);
            double added = (double)v[without | 1u << who] - (double)v[without];
            sum += s_weight[__popc(m)] * added;
        }
        s_sum[i * STRIDE + t] = sum;
    }
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();  // s_sum holds the sums of twice as many lanes
        for (int i = t; i < each * half; i += THREADS) {
            double* sum = s_sum + i / half * STRIDE + i % half;
            *sum += sum[half];
        }
    }
    __syncthreads();  // s_sum begins with the values
    if (t < each) phi[at + t] = (float)s_sum[t * STRIDE];
}
