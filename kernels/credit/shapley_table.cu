// shapley_table   Shapley values of a game given by its 2^K values
//
// phi_i = sum_{S without i} |S|! (K - |S| - 1)! / K! (v(S + i) - v(S))
//
// Shapes          values [n, 2^K] f32, bit i of an index says that i is in the set   phi [n, K] f32
// Numerics        f64; one rounding, at the store.
// Parallel        one block a game, whose table stands in shared memory, or one block a value where that has no room for it.
//                 Thread t adds the sets t, t + 256, ... of those without i, then a warp a value the threads, a tree of halves.
// Cost            reads 4n 2^K bytes, with a block a value K times that (L2 serves all but the first), writes 4nK; 1.5 nK 2^K
//                 FLOP in f64.
// Determinism     one order of the sum; the bits of the CPU device.
// Requires        K <= 16
// Source          Shapley 1953, "A value for n-person games".
// Oracle          src/ops/credit/oracle.rs
#include "common/reduce.cuh"
#include "common/shared.cuh"

constexpr int THREADS = 256;
constexpr int MAX_K = 16;

extern "C" __global__ void __launch_bounds__(THREADS)
    shapley_table(const float* __restrict__ values,  // [n, 2^K]
                  float* phi,                        // [n, K]
                  int32_t k, int32_t each) {
    SHARED_DYNAMIC(double, s_sum);  // [each, THREADS], then the table [2^K] where each, the values of a block, is K
    __shared__ double s_weight[MAX_K];
    __shared__ float s_phi[MAX_K];
    float* s_table = reinterpret_cast<float*>(s_sum + each * THREADS);
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
        s_sum[i * THREADS + t] = sum;
    }
    __syncthreads();  // s_sum holds the threads' sums
    for (int i = t / 32; i < each; i += THREADS / 32) {
        const double* of = s_sum + i * THREADS + t % 32;
        double sum = ((of[0] + of[128]) + (of[64] + of[192])) + ((of[32] + of[160]) + (of[96] + of[224]));
        sum = lanes_sum<32>(sum);
        if (t % 32 == 0) s_phi[i] = (float)sum;
    }
    __syncthreads();  // s_phi holds the values
    if (t < each) phi[at + t] = s_phi[t];
}
