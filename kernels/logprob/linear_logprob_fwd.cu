// linear_logprob_fwd     lse = ln sum_v exp z_v,  logprob = z[target] - lse,  entropy = lse - sum_v p_v z_v
//
// Shapes          work f32: from part_at on part [R, n_spans, 3], from hit_at on z_target [R], both of linear_logprob_spans
//                 logprob, lse, entropy [R] f32
// Numerics        f32; entropy from distances to the maximum, for it is small beside z.
// Parallel        one thread a row.
// Cost            reads 12 bytes a span, writes 12R. Negligible beside the product.
// Determinism     spans in ascending order; a row's bits depend on that row alone; those of sample and of the CPU device.
// Source          Milakov and Gimelshein 2018, arXiv:1805.02867, alg. 3, with one order of merging.
// Oracle          src/ops/logprob/oracle.rs
#include "common/softmax.cuh"

extern "C" __global__ void __launch_bounds__(128)
    linear_logprob_fwd(const float* __restrict__ work,  // part [R, n_spans, 3], z_target [R]
                       float* logprob,                  // [R]
                       float* lse,                      // [R]
                       float* entropy,                  // [R]
                       int64_t part_at, int64_t hit_at, int64_t n_rows, int32_t n_spans) {
    int64_t row = (int64_t)blockIdx.x * 128 + threadIdx.x;
    if (row >= n_rows) return;
    SoftmaxSums s = merge_parts(work + part_at + row * n_spans * 3, n_spans);
    float log_sum = log_f32(s.sum), l = s.max + log_sum;
    lse[row] = l;
    entropy[row] = log_sum - s.dot / s.sum;
    logprob[row] = work[hit_at + row] - l;
}
