// shapley_max     Shapley values of the game v(S) = max of S, v of nothing 0
//
// With utilities ascending, r_0 = 0:  phi_k = sum_{j <= k} (r_j - r_{j-1}) / (K - j + 1)
//
// Shapes          utility, phi [n, K] f32
// Numerics        f64; one rounding, at the store. Equal utilities get equal bits; every NaN is the largest.
// Parallel        one warp a set. A rank is counted, not sorted; shares are divided side by side and added in order.
// Cost            reads 4nK bytes, writes 4nK; K^2 comparisons a set. Memory bound to K = 32.
// Determinism     ties stand in the order of the set; one order of the sum; the bits of the CPU device.
// Requires        16 K bytes of shared memory a warp.
// Source          Littlechild and Owen 1973 (the airport game); as credit for candidates, arXiv:2603.29871.
// Oracle          src/ops/credit/oracle.rs
#include "common/order.cuh"
#include "common/shared.cuh"

extern "C" __global__ void __launch_bounds__(256)
    shapley_max(const float* __restrict__ utility,  // [n, K]
                float* phi,                         // [n, K]
                int64_t n, int32_t k) {
    SHARED_DYNAMIC(double, s_all);  // a warp: double [K], float [K], int [K]
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int64_t set = (int64_t)blockIdx.x * (blockDim.x / 32) + warp;
    if (set >= n) return;  // the whole warp
    double* s_share = s_all + (int64_t)warp * 2 * k;
    float* s_sorted = reinterpret_cast<float*>(s_share + k);
    int32_t* s_key = reinterpret_cast<int32_t*>(s_sorted + k);
    float* s_u = reinterpret_cast<float*>(s_share);  // until shares are there
    for (int i = lane; i < k; i += 32) {
        float u = utility[set * k + i];
        s_u[i] = u;
        s_key[i] = u != u ? 0x7fffffff : rank_f32(u);
    }
    __syncwarp();  // s_u holds the utilities, s_key their ranks
    auto place = [&](int i) {
        int before = 0, key = s_key[i];
        for (int j = 0; j < k; j++) before += s_key[j] < key || (s_key[j] == key && j < i);
        return before;
    };
    for (int i = lane; i < k; i += 32) s_sorted[place(i)] = s_u[i];
    __syncwarp();  // s_sorted holds the utilities, ascending
    for (int j = lane; j < k; j += 32) {
        double below = j == 0 ? 0.0 : (double)s_sorted[j - 1];
        s_share[j] = ((double)s_sorted[j] - below) / (double)(k - j);
    }
    __syncwarp();  // s_share holds what each step is worth to one of those that reach it
    if (lane == 0) {
        double sum = 0.0;
        for (int j = 0; j < k; j++) s_share[j] = sum += s_share[j];
    }
    __syncwarp();  // s_share holds the values, by place
    for (int i = lane; i < k; i += 32) phi[set * k + i] = (float)s_share[place(i)];
}
