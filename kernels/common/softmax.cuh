// Sums over a row of V logits in the one order that the head and sampling share, that of src/device/cpu/softmax.rs.
//
// A row is cut into spans of 2048; where it has several, each span into pieces of 256, the columns of a tile of the
// head's product on Hopper (logprob/linear_logprob_spans_sm90.cu). Inside a piece, or the one span, element i belongs to
// lane i % 16; each lane adds its elements in ascending order, lanes are added as a tree of halves; then pieces, and then
// spans, in ascending order. Sixteen neighbouring threads have a span; the other half of their warp walks along with
// another span or none.
#pragma once

#include "common/reduce.cuh"

constexpr int SPAN = 2048;
constexpr int SPAN_LANES = 16;
constexpr int PIECE = 256;

// Largest element, sum of exp(z - max), sum of exp(z - max) (z - max).
struct SoftmaxSums {
    float max, sum, dot;
};

// Of one piece z [width] times scale; width is 0 for threads without one. The whole warp calls.
__device__ __forceinline__ SoftmaxSums piece_sums(const float* z, int width, int lane, float scale) {
    float max = NEG_INF;
    for (int i = lane; i < width; i += SPAN_LANES) {
        float x = z[i] * scale;
        max = x > max ? x : max;
    }
    max = lanes_max<SPAN_LANES>(max);
    float base = max > NEG_INF ? max : 0.0f, sum = 0.0f, dot = 0.0f;
#pragma unroll 4
    for (int i = lane; i < width; i += SPAN_LANES) {
        float shifted = z[i] * scale - base, p = exp_log_prob_f32(shifted);
        sum += p;
        dot = fmaf(p, shifted, dot);
    }
    return {max, lanes_sum<SPAN_LANES>(sum), lanes_sum<SPAN_LANES>(dot)};
}

// Adds the sums of a part to those of its whole, whose maximum is known.
__device__ __forceinline__ void add_part(SoftmaxSums& whole, const SoftmaxSums& part) {
    float shifted = part.max - (whole.max > NEG_INF ? whole.max : 0.0f), share = exp_log_prob_f32(shifted);
    whole.sum = fmaf(part.sum, share, whole.sum);
    whole.dot = fmaf(share, fmaf(part.sum, shifted, part.dot), whole.dot);
}

// Of one span z [width] times scale, one of several when it is `cut`. The whole warp calls.
__device__ __forceinline__ SoftmaxSums span_sums(const float* z, int width, int lane, float scale, bool cut) {
    if (!cut) return piece_sums(z, width, lane, scale);
    SoftmaxSums mine = {NEG_INF, 0.0f, 0.0f};  // of piece `lane`
    for (int piece = 0; piece < SPAN / PIECE; piece++) {
        int from = piece * PIECE;
        SoftmaxSums s = piece_sums(z + from, max(0, min(PIECE, width - from)), lane, scale);
        if (lane == piece) mine = s;
    }
    SoftmaxSums span = {lanes_max<SPAN_LANES>(mine.max), 0.0f, 0.0f};
    for (int piece = 0; piece < SPAN / PIECE; piece++) {
        SoftmaxSums part = {__shfl_sync(ALL_LANES, mine.max, piece, SPAN_LANES),
                            __shfl_sync(ALL_LANES, mine.sum, piece, SPAN_LANES),
                            __shfl_sync(ALL_LANES, mine.dot, piece, SPAN_LANES)};
        if (piece * PIECE < width) add_part(span, part);
    }
    return span;
}

// Of a whole from those of its parts, part [n_parts, 3]: of a row from its spans, of a span from its pieces.
__device__ __forceinline__ SoftmaxSums merge_parts(const float* part, int n_parts) {
    SoftmaxSums whole = {NEG_INF, 0.0f, 0.0f};
    for (int c = 0; c < n_parts; c++) whole.max = part[3 * c] > whole.max ? part[3 * c] : whole.max;
    for (int c = 0; c < n_parts; c++) add_part(whole, {part[3 * c], part[3 * c + 1], part[3 * c + 2]});
    return whole;
}
