// linear_logprob_spans   softmax sums of the spans of a block of logits: first half of linear_logprob_fwd
//
// Shapes          work f32: z [R, W], raw logits of R rows and the W tokens from `first` on; from part_at on
//                 part [R, n_spans, 3], max, sum, dot of each span; from hit_at on z_target [R]   target [R] i32
// Numerics        f32, scaled by 1 / temperature; the target's logit is copied when it lies in this block.
// Parallel        16 threads a span of 2048, 16 spans a block.
// Cost            reads 8RW bytes (the second half from cache), writes 12 bytes a span. ~25 RW FLOP. Memory bound, and
//                 z stands in L2: the block was written by the product just before.
// Determinism     one order of every sum; a row's bits depend on that row alone; those of the CPU device.
// Requires        first % 2048 == 0.
// Source          Milakov and Gimelshein 2018, arXiv:1805.02867 (sums under a running maximum), by spans.
// Oracle          src/ops/logprob/oracle.rs
#include "common/softmax.cuh"

extern "C" __global__ void __launch_bounds__(256)
    linear_logprob_spans(float* work,                         // z [R, W], part [R, n_spans, 3], z_target [R]
                         const int32_t* __restrict__ target,  // [R]
                         int64_t part_at, int64_t hit_at, int64_t n_rows, int32_t width, int32_t first, int32_t n_spans,
                         float inv_temperature) {
    int lane = threadIdx.x % SPAN_LANES;
    int64_t at = (int64_t)blockIdx.x * (256 / SPAN_LANES) + threadIdx.x / SPAN_LANES;
    int64_t here = ceil_div(width, SPAN), row = at / here;
    bool live = row < n_rows;
    int span = (int)(at % here), from = span * SPAN;
    const float* of = work + (live ? row * width + from : 0);
    SoftmaxSums s = span_sums(of, live ? min(SPAN, width - from) : 0, lane, inv_temperature, n_spans > 1);
    if (!live || lane != 0) return;
    float* to = work + part_at + (row * n_spans + first / SPAN + span) * 3;
    to[0] = s.max;
    to[1] = s.sum;
    to[2] = s.dot;
    int32_t t = target[row] - first - from;
    if (t >= 0 && t < min(SPAN, width - from)) work[hit_at + row] = of[t] * inv_temperature;
}
