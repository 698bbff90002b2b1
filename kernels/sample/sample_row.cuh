// A row of logits and what is asked of it, to a token: what sample and its twin for few rows on Hopper share.
#pragma once

#include "common/dependent.cuh"
#include "common/philox.cuh"
#include "common/shared.cuh"
#include "sample/draw.cuh"
#include "sample/filter.cuh"

constexpr int MAX_THREADS = 512;

// What is asked of one row.
struct Ask {
    float* z;  // [vocab]
    int vocab, end;
    bool vectors;
    float temperature, top_p, min_p, u;  // u in (0, 1)
    int32_t top_k;
};

// The first `len` logits of a row, whose pieces' sums are to come.
__device__ __forceinline__ Row row_of(const Ask& ask, int len, float* s_dynamic, Board& s) {
    bool cut = len > SPAN;
    int n_pieces = cut ? (int)ceil_div(len, PIECE) : 1;
    int most = Row::place(ask.vocab > SPAN ? (int)ceil_div(ask.vocab, PIECE) : 1);
    return {ask.z,       len,  (int)ceil_div(len, SPAN), n_pieces,         cut ? 8 : 11,         0.0f, 0.0f,
            ask.vectors, true, s_dynamic,                s_dynamic + most, s_dynamic + 2 * most, s};
}

// Scales the logits of a row and sums them.
__device__ __forceinline__ void scale_and_sum(Row& row, float scale) {
    int quad = threadIdx.x / 4 % 8, step = BLOCKS * (int)blockDim.x / 4;
    // A warp has eight pieces, the blocks' warps take turns.
    for (int i = (threadIdx.x / 32 * BLOCKS + block_of_row()) * 8 + quad; i - quad < row.n_pieces; i += step) {
        int from = i * row.piece();
        SoftmaxSums sums = quad_sums<true>(row.z + from, max(0, min(row.piece(), row.len - from)), scale, row.vectors);
        if (threadIdx.x % 4 == 0 && i < row.n_pieces) {
            give(&row.s_max[row.place(i)], sums.max);
            give(&row.s_sum[row.place(i)], sums.sum);
        }
    }
    row_meets();  // z is scaled, s_max and s_sum hold the pieces' sums
    merge_pieces(row);
}

// Sums the beginning of a row whose pieces have been summed: its last piece is another.
__device__ __forceinline__ void sum_again(Row& row) {
    int last = row.n_pieces - 1, from = last * row.piece();
    if (threadIdx.x < 32) {
        SoftmaxSums sums = quad_sums<false>(row.z + from, threadIdx.x < 4 ? row.len - from : 0, 1.0f, row.vectors);
        if (threadIdx.x == 0) {
            row.s_max[row.place(last)] = sums.max;
            row.s_sum[row.place(last)] = sums.sum;
        }
    }
    __syncthreads();  // s_max, s_sum are those of the beginning
    merge_pieces(row);
}

// Whether ranks order the row's weights; where they do not, no piece is left out of a walk.
__device__ __forceinline__ void find_order(Row& row) {
    row.ordered = row.sum > 0.0f && row.sum < -NEG_INF;
    __syncthreads();  // s_max is read
    for (int i = threadIdx.x; i < row.n_pieces && !row.ordered; i += blockDim.x) {
        row.s_max[row.place(i)] = __uint_as_float(0x7fffffffu);
    }
    __syncthreads();  // s_max is the row's; s.max, s.sum, s_part are free
}

// What top-k and top-p keep, into kept.by_k and kept.by_p.
__device__ __forceinline__ void filter(const Row& row, const Ask& ask, Kept& kept) {
#pragma unroll 1  // one piece of code for both
    for (int filter = 0; filter < 2; filter++) {
        bool count = filter == 0;
        if (count ? ask.top_k <= 0 : ask.top_p >= 1.0f) continue;
        int32_t guess = LOWEST;
        float want = (float)ask.top_k, error = 0.0f;
        if (!count) {
            // Whatever top-p is, the likeliest stays.
            want = fmaxf(ask.top_p * row.sum, 1.17549435e-38f);
            // Chains of 128, a tree, spans; each addition is half a unit in the last place off at most.
            error = (float)(CHUNKS + 4 + row.n_spans) * 5.9604645e-8f;
            // Tokens of less weight than this have less together than top-p may leave out.
            float tail = 0.5f * fminf(1.0f - ask.top_p, 1.0f) * row.sum / (float)row.len;
            guess = rank_f32(row.max + log_f32(tail));
        } else if (row.ordered) {
            guess = rank_of_kth_part(row, ask.top_k);
        }
        Beginning found = beginning(row, want, error, kept.by_k.key, guess, Weight{count, row.max});
        if (count) {
            kept.by_k = found;
        } else {
            kept.by_p = found;
        }
    }
}

// A draw from what the filters keep.
__device__ __forceinline__ int draw(const Row& row, const Ask& ask) {
    Kept kept = {{LOWEST, EVERY}, {LOWEST, EVERY}, row.max, fminf(ask.min_p, 1.0f),
                 ask.top_k <= 0 && ask.top_p >= 1.0f && ask.min_p <= 0.0f};
    filter(row, ask, kept);
    int32_t least = max(kept.by_k.key, kept.by_p.key);
    if (row.ordered && ask.min_p > 0.0f) {
        // Below this a weight is below min_p, however it is rounded.
        least = max(least, rank_f32(row.max + log_f32(kept.min_p) - 1.0f - fabsf(row.max) * 1e-6f));
    }
    int last = sum_weights(row, least, kept);
    return inverse_cdf(row, ask.u * (kept.all ? row.sum : total_weight(row)), last, kept);
}

// The first of the likeliest; 0 when there is none.
__device__ __forceinline__ int first_of_likeliest(const Row& row) {
    if (threadIdx.x == 0) row.s.token = EVERY;
    __syncthreads();  // s.token is set
    int32_t first = EVERY;
    each_from(row, row.ordered ? rank_f32(row.max) : LOWEST, [&](int id, float z, int32_t) {
        if (z == row.max) first = min(first, id);
    });
    if (first != EVERY) atomicMin(&row.s.token, first);
    __syncthreads();  // s.token is the block's first
    first = of_all_blocks(row.s, row.s.token, [](int32_t a, int32_t b) { return min(a, b); });
    return first == EVERY ? 0 : first;
}

// A token of the row of this block, or of this cluster.
__device__ __forceinline__ void sample_row(float* logits,                          // [N, V], scaled in place
                                           const float* __restrict__ temperature,  // [N]
                                           const int32_t* __restrict__ top_k,      // [N]
                                           const float* __restrict__ top_p,        // [N]
                                           const float* __restrict__ min_p,        // [N]
                                           const uint64_t* __restrict__ key,       // [N, 2]
                                           const int32_t* __restrict__ pos,        // [N], null where rows has them
                                           int32_t* rows,                          // [6, N], null where they stay
                                           int32_t* token,                         // [N]
                                           float* logprob,                         // [N]
                                           int32_t vocab,
                                           int32_t end,      // ids from here on are not drawn
                                           int32_t vectors,  // rows begin on boundaries of 16 bytes
                                           int32_t n_seqs) {
    SHARED_DYNAMIC(float, s_dynamic);  // [place(n_pieces)] twice, [n_spans, CUTS]
    __shared__ Board s;
    int64_t n = blockIdx.x / BLOCKS, n_rows = gridDim.x / BLOCKS;
    int32_t at = rows != nullptr ? rows[4 * n_rows + n] : pos[n];
    float u = noise_uniform(key[2 * n], key[2 * n + 1], (uint64_t)at + 1);
    Ask ask = {logits + n * vocab, vocab, end, vectors != 0, temperature[n], top_p[n], min_p[n], u, top_k[n]};
    Row row = row_of(ask, vocab, s_dynamic, s);
    await_predecessors();
    if (BLOCKS > 1) row_meets();  // all have begun
    scale_and_sum(row, ask.temperature > 0.0f ? 1.0f / ask.temperature : 1.0f);
    float log_sum = row.max + log_f32(row.sum);
    Row drawn = row_of(ask, end, s_dynamic, s);
    drawn.max = row.max;
    drawn.sum = row.sum;
    if (end < vocab) sum_again(drawn);
    find_order(drawn);
    int taken = ask.temperature > 0.0f ? draw(drawn, ask) : first_of_likeliest(drawn);
    if (threadIdx.x == 0 && block_of_row() == 0) {
        token[n] = taken;
        logprob[n] = ask.z[taken] - log_sum;
        if (rows != nullptr && rows[2 * n_rows + n] < n_seqs) {
            rows[n] = taken;
            rows[n_rows + n] += 1;
            rows[4 * n_rows + n] = at + 1;
        }
    }
}
