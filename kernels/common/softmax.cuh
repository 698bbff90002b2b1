// Sums over a row of V logits in the one order that the head and sampling share, that of src/device/cpu/softmax.rs.
//
// A row is cut into spans of 2048. Inside a span element i belongs to lane i % 16; each lane adds its elements in
// ascending order, lanes are added as a tree of halves, spans in ascending order. Sixteen neighbouring threads have a
// span; the other half of their warp walks along with another span or none.
#pragma once

#include "common/reduce.cuh"

constexpr int SPAN = 2048;
constexpr int SPAN_LANES = 16;

// Largest element, sum of exp(z - max), sum of exp(z - max) (z - max).
struct SoftmaxSums {
    float max, sum, dot;
};

// Of one span z [width] times scale; width is 0 for threads without one. The whole warp calls.
__device__ __forceinline__ SoftmaxSums span_sums(const float* z, int width, int lane, float scale) {
    float max = NEG_INF;
    for (int i = lane; i < width; i += SPAN_LANES) {
        float x = z[i] * scale;
        max = x > max ? x : max;
    }
    max = lanes_max<SPAN_LANES>(max);
    float base = max > NEG_INF ? max : 0.0f, sum = 0.0f, dot = 0.0f;
#pragma unroll 4
    for (int i = lane; i < width; i += SPAN_LANES) {
        float below = z[i] * scale - base, p = exp_f32(below);
        sum += p;
        dot = fmaf(p, below, dot);
    }
    return {max, lanes_sum<SPAN_LANES>(sum), lanes_sum<SPAN_LANES>(dot)};
}

// Of a row, from those of its spans, part [n_spans, 3].
__device__ __forceinline__ SoftmaxSums merge_spans(const float* part, int n_spans) {
    SoftmaxSums row = {NEG_INF, 0.0f, 0.0f};
    for (int c = 0; c < n_spans; c++) row.max = part[3 * c] > row.max ? part[3 * c] : row.max;
    for (int c = 0; c < n_spans; c++) {
        float sum = part[3 * c + 1], below = part[3 * c] - row.max, share = exp_f32(below);
        row.sum = fmaf(sum, share, row.sum);
        row.dot = fmaf(share, fmaf(sum, below, part[3 * c + 2]), row.dot);
    }
    return row;
}
