// Walks with an order, of a row that a cluster has: a block has fewer spans than quads, so a warp has a span.
//
// Its eight quads weigh eight chunks of sixteen side by side, 128 logits that are neighbours in memory. Then each is handed to all,
// in the order of the chunks, to be added: the sums are those of one quad that has the span alone, in a quarter of its time.
#pragma once

#include "sample/row.cuh"

constexpr int QUADS = 8;  // of a warp

// Calls body(span, first id, end) for each of the warp's spans.
template <typename Body>
__device__ __forceinline__ void each_span_of_warp(const Row& row, Body body) {
    for (int i = threadIdx.x / 32; i * BLOCKS + block_of_row() < row.n_spans; i += blockDim.x / 32) {
        int span = i * BLOCKS + block_of_row(), from = span * SPAN;
        body(span, from, min(from + SPAN, row.len));
    }
}

// Calls body(id, four) with four neighbours of a span for each thread, -inf behind its end, whose pieces have a rank of `least` or
// more: quad q has the q-th of eight chunks.
template <typename Body>
__device__ __forceinline__ void each_eight_chunks(const Row& row, int from, int end, int32_t least, Body body) {
    for (int at = from; at < end; at += PIECE) {
        if (!row.reaches(at, least)) continue;
#pragma unroll
        for (int first = 0; first < PIECE; first += QUADS * SPAN_LANES) {
            int id = at + first + threadIdx.x % 32 * 4;
            body(id, row.four(id, end));
        }
    }
}

// What quad q has, for all quads: each thread gets that of its like.
template <typename T>
__device__ __forceinline__ T of_quad(T x, int q) {
    return __shfl_sync(ALL_LANES, x, 4 * q + threadIdx.x % 4);
}

// sum_weights of this warp's spans; returns the last token that this thread found to have weight.
template <typename Weight>
__device__ __forceinline__ int sum_weights_by_warps(const Row& row, int32_t least, const Weight& weight) {
    int last = 0;
    each_span_of_warp(row, [&](int span, int from, int end) {
        float lanes[4] = {}, total = 0.0f;
        each_eight_chunks(row, from, end, least, [&](int id, const Pack<float, 4>& x) {
            float w[4];
            bool any = false;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                w[e] = id + e < end ? weight(id + e, x.v[e]) : 0.0f;
                any |= !(w[e] == 0.0f);
            }
            if (!__any_sync(ALL_LANES, any)) return;
            float chunk = vector_sum(w);
#pragma unroll
            for (int e = 0; e < 4; e++) last = w[e] > 0.0f && chunk > 0.0f ? id + e : last;
#pragma unroll
            for (int q = 0; q < QUADS; q++) {
                total += of_quad(chunk, q);
#pragma unroll
                for (int e = 0; e < 4; e++) lanes[e] += of_quad(w[e], q);
            }
        });
        float by_lanes = vector_sum(lanes);
        if (threadIdx.x % 32 == 0) {
            give(&row.s_part[2 * span], total);
            give(&row.s_part[2 * span + 1], by_lanes);
        }
    });
    return last;
}

// sums_above of this warp's spans: quad j adds up what is above the j-th rank. What is equal to one it counts in s.ties.
template <typename Weight>
__device__ __forceinline__ void sums_above_by_warps(const Row& row, const int32_t (&cut)[CUTS], const Weight& weight) {
    static_assert(CUTS == QUADS, "a quad a cut");
    int own = threadIdx.x / 4 % QUADS;
    int32_t above = cut[0];
#pragma unroll
    for (int j = 1; j < CUTS; j++) above = j == own ? cut[j] : above;
    each_span_of_warp(row, [&](int span, int from, int end) {
        float sum[4] = {};
        each_eight_chunks(row, from, end, cut[CUTS - 1], [&](int id, const Pack<float, 4>& x) {
            int32_t key[4];
            float w[4] = {};
            bool any = false;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                key[e] = rank_f32(x.v[e]);
                if (id + e >= end || key[e] < cut[CUTS - 1]) continue;
                any = true;
                w[e] = weight(x.v[e]);
                count_tie(row, cut, key[e]);
            }
            if (!__any_sync(ALL_LANES, any)) return;
#pragma unroll
            for (int q = 0; q < QUADS; q++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float x = of_quad(w[e], q);
                    if (of_quad(key[e], q) > above) sum[e] += x;
                }
            }
        });
        float total = vector_sum(sum);
        if (threadIdx.x % 4 == 0) give(&row.s_part[span * CUTS + own], total);
    });
}
