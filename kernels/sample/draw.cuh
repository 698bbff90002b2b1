// A token of a row by inverse CDF, in proportion to weights.
#pragma once

#include "sample/filter.cuh"

// What the filters leave of a token's probability over the likeliest one's.
struct Kept {
    Beginning by_k, by_p;
    float max, min_p;
    bool all;  // no filter
    __device__ __forceinline__ float operator()(int id, float z) const {
        float w = exp_log_prob_f32(z - max);
        return all || (by_k.holds(id, z) && by_p.holds(id, z) && w >= min_p) ? w : 0.0f;
    }
};

// sum_weights of this quad's spans; returns the last token that this thread found to have weight.
__device__ __forceinline__ int sum_weights_by_quads(const Row& row, int32_t least, const Kept& weight) {
    int lane = threadIdx.x % 4 * 4, last = 0;
    int widest = min(row.piece(), (int)ceil_div(row.len, SPAN_LANES) * SPAN_LANES);
    each_span(row, [&](int span, int from, int end) {
        float lanes[4] = {}, total = 0.0f;
        // The quads of a warp walk side by side: each of their pieces is as wide.
        for (int piece = 0; piece < row.pieces_of_span(); piece++) {
            int at = from + piece * row.piece();
            bool live = at < end && row.reaches(at, least);
            if (!__any_sync(ALL_LANES, live)) continue;
            for (int first = 0; first < widest; first += AHEAD * SPAN_LANES) {
                Pack<float, 4> x[AHEAD];
#pragma unroll
                for (int a = 0; a < AHEAD; a++) {
                    int i = first + a * SPAN_LANES;
                    x[a] = row.four(at + i + lane, live && i < widest ? end : 0);
                }
#pragma unroll
                for (int a = 0; a < AHEAD; a++) {
                    int i = at + first + a * SPAN_LANES + lane;
                    float w[4];
                    bool any = false;
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        w[e] = live && i + e < end && first + a * SPAN_LANES < widest ? weight(i + e, x[a].v[e]) : 0.0f;
                        any |= !(w[e] == 0.0f);
                    }
                    if (!__any_sync(ALL_LANES, any)) continue;
                    float chunk = vector_sum(w);
                    total += chunk;
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        lanes[e] += w[e];
                        if (w[e] > 0.0f && chunk > 0.0f) last = i + e;
                    }
                }
            }
        }
        float by_lanes = vector_sum(lanes);
        if (threadIdx.x % 4 == 0 && from < end) {
            give(&row.s_part[2 * span], total);
            give(&row.s_part[2 * span + 1], by_lanes);
        }
    });
    return last;
}

// Of weight(id, z) over each span, into s_part [n_spans, 2]: the sum by chunks of sixteen, by which tokens are found, and the
// sum by lanes, of which totals are made. Returns the last token that has weight. What has any is of rank `least` or more.
__device__ __forceinline__ int sum_weights(const Row& row, int32_t least, const Kept& weight) {
    if (threadIdx.x == 0) row.s.last = 0;
    row_meets();  // s.last is set; s_part is free
    int last = BLOCKS > 1 ? sum_weights_by_warps(row, least, weight) : sum_weights_by_quads(row, least, weight);
    if (last > 0) atomicMax(&row.s.last, last);
    __syncthreads();  // s_part holds the spans' sums, s.last the block's last token that has weight
    return of_all_blocks(row.s, row.s.last, [](int32_t a, int32_t b) { return max(a, b); });
}

// Sum of all weights, after sum_weights.
__device__ __forceinline__ float total_weight(const Row& row) {
    float total = 0.0f;
    for (int c = 0; c < row.n_spans; c++) total += row.s_part[2 * c + 1];
    return total;
}

// The token of one span at which the weights, begun at 0, exceed `need`; -1 when rounding keeps them below. Sixteen are
// added as a tree, and one by one where the sum crosses.
__device__ __forceinline__ int find_in_span(const Row& row, int span, float need, const Kept& weight) {
    int from = span * SPAN, end = min(from + SPAN, row.len), n_chunks = (int)ceil_div(end - from, SPAN_LANES);
    int quad = threadIdx.x / 4;
    for (int c = quad; c - quad % 8 < n_chunks; c += blockDim.x / 4) {
        int at = from + c * SPAN_LANES + threadIdx.x % 4 * 4;
        Pack<float, 4> x = row.four(at, end);
        float w[4];
#pragma unroll
        for (int e = 0; e < 4; e++) w[e] = at + e < end ? weight(at + e, x.v[e]) : 0.0f;
        float sum = vector_sum(w);
        if (threadIdx.x % 4 == 0 && c < n_chunks) row.s.chunk[c] = sum;
    }
    __syncthreads();  // s.chunk holds the chunks' sums
    if (threadIdx.x == 0) {
        int token = -1;
        float cumulative = 0.0f;
        for (int c = 0; c < n_chunks && token < 0; c++) {
            float sum = row.s.chunk[c], inside = cumulative;
            cumulative += sum;
            if (!(cumulative > need)) continue;
            for (int id = from + c * SPAN_LANES; id < min(from + (c + 1) * SPAN_LANES, end); id++) {
                float w = weight(id, row.z[id]);
                inside += w;
                if (token < 0 && w > 0.0f && inside > need) token = id;
            }
        }
        row.s.token = token;
    }
    __syncthreads();  // s.token is the token
    return row.s.token;
}

// The first token at which the sum of weights exceeds `at`, after sum_weights; `last`, the last one that has any weight, if
// rounding keeps the sum below.
__device__ __forceinline__ int inverse_cdf(const Row& row, float at, int last, const Kept& weight) {
    float before = 0.0f;
    for (int c = 0; c < row.n_spans; c++) {
        float need = at - before, total = row.s_part[2 * c];
        before += total;
        if (!(total > need)) continue;
        int token = find_in_span(row, c, need, weight);
        if (token >= 0) return token;
        __syncthreads();  // s.token is read before it is written again
    }
    return last;
}
