// sample          one token a row by inverse CDF, and its log-probability under the whole softmax; in decode the next step's
//                 rows too: ids = token, positions + 1
//
// Shapes          logits [N, V] f32, scaled in place   temperature, top_p, min_p [N] f32   top_k [N] i32
//                 key [N, 2] u64: seed, stream   token [N] i32   logprob [N] f32   where rows stand, either of: pos [N] i32;
//                 rows [6, N] i32 of a decode step: ids, positions, seq, logit rows, their positions, their seq
// Numerics        f32. Likelier is a higher scaled logit, or among equals a lower id. top-k keeps the first k of that
//                 order, top-p its shortest beginning whose probability reaches top_p, min-p what has min_p times the
//                 probability of the likeliest; all judge the whole softmax, what passes all is drawn in proportion.
//                 Nothing is sorted: sample/filter.cuh finds where a beginning ends, sample/draw.cuh the token. The noise is
//                 that of (seed, stream, pos + 1), the position of the token that is drawn.
// Parallel        one block a row, 16 logits a thread, at most 512 threads: four of them a piece of 256 logits, then a span
//                 of 2048, 16 bytes each where rows allow it.
// Cost            reads 12 V bytes, writes 4V a row (all but the first 4V from cache), of a decode step 12 and 12 more. top-k and
//                 top-p: two or three walks for a histogram each and one for sums, up to four where top-p is near 1, over the
//                 pieces alone that reach where the beginning may end, which is known beforehand: by the largest of each piece,
//                 or by what top-p may leave out. Bound by instructions where one row has the card: two exponentials a logit on
//                 one multiprocessor.
// Sass            sample: LDG.E.128 STG.E.128
// Sass sm_90a     sample: PREEXIT ACQBULK
// Determinism     one order of every sum (common/softmax.cuh), counter-based noise: the decisions of the CPU device, and
//                 logprobs with the bits of linear_logprob_fwd. A row's bits depend on that row alone: a block reads and writes
//                 its own column of rows, whose position all its threads have read before the first barrier.
// Requires        V < 2^26. Of a decode step row i samples from row i; rows of a sequence n_seqs or above are padding and stay.
// Source          Salmon et al. 2011 (noise); Holtzman et al. 2019, arXiv:1904.09751 (top-p); arXiv:2407.01082 (min-p).
// Oracle          src/ops/sample/oracle.rs
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
    int n_pieces = cut ? (int)ceil_div(len, PIECE) : 1, most = ask.vocab > SPAN ? (int)ceil_div(ask.vocab, PIECE) : 1;
    return {ask.z,       len,  (int)ceil_div(len, SPAN), n_pieces,         cut ? 8 : 11,         0.0f, 0.0f,
            ask.vectors, true, s_dynamic,                s_dynamic + most, s_dynamic + 2 * most, s};
}

// Scales the logits of a row and sums them.
__device__ __forceinline__ void scale_and_sum(Row& row, float scale) {
    int quad = threadIdx.x / 4;
    for (int i = quad; i - quad % 8 < row.n_pieces; i += blockDim.x / 4) {
        int from = i * row.piece();
        SoftmaxSums sums = quad_sums<true>(row.z + from, max(0, min(row.piece(), row.len - from)), scale, row.vectors);
        if (threadIdx.x % 4 == 0 && i < row.n_pieces) {
            row.s_max[i] = sums.max;
            row.s_sum[i] = sums.sum;
        }
    }
    __syncthreads();  // z is scaled, s_max and s_sum hold the pieces' sums
    merge_pieces(row);
}

// Sums the beginning of a row whose pieces have been summed: its last piece is another.
__device__ __forceinline__ void sum_again(Row& row) {
    int last = row.n_pieces - 1, from = last * row.piece();
    if (threadIdx.x < 32) {
        SoftmaxSums sums = quad_sums<false>(row.z + from, threadIdx.x < 4 ? row.len - from : 0, 1.0f, row.vectors);
        if (threadIdx.x == 0) {
            row.s_max[last] = sums.max;
            row.s_sum[last] = sums.sum;
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
        row.s_max[i] = __uint_as_float(0x7fffffffu);
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
    sum_weights(row, least, kept);
    return inverse_cdf(row, ask.u * (kept.all ? row.sum : total_weight(row)), kept);
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
    __syncthreads();  // s.token is the token
    return row.s.token == EVERY ? 0 : row.s.token;
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS)
    sample(float* logits,                          // [N, V], scaled in place
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
           int32_t end,        // ids from here on are not drawn
           int32_t vectors,  // rows begin on boundaries of 16 bytes
           int32_t n_seqs) {
    SHARED_DYNAMIC(float, s_dynamic);  // [n_pieces] twice, [n_spans, CUTS]
    __shared__ Board s;
    int64_t n = blockIdx.x, n_rows = gridDim.x;
    int32_t at = rows != nullptr ? rows[4 * n_rows + n] : pos[n];
    float u = noise_uniform(key[2 * n], key[2 * n + 1], (uint64_t)at + 1);
    Ask ask = {logits + n * vocab, vocab, end, vectors != 0, temperature[n], top_p[n], min_p[n], u, top_k[n]};
    Row row = row_of(ask, vocab, s_dynamic, s);
    await_predecessors();
    scale_and_sum(row, ask.temperature > 0.0f ? 1.0f / ask.temperature : 1.0f);
    float log_sum = row.max + log_f32(row.sum);
    Row drawn = row_of(ask, end, s_dynamic, s);
    drawn.max = row.max;
    drawn.sum = row.sum;
    if (end < vocab) sum_again(drawn);
    find_order(drawn);
    int taken = ask.temperature > 0.0f ? draw(drawn, ask) : first_of_likeliest(drawn);
    if (threadIdx.x == 0) {
        token[n] = taken;
        logprob[n] = ask.z[taken] - log_sum;
        if (rows != nullptr && rows[2 * n_rows + n] < n_seqs) {
            rows[n] = taken;
            rows[n_rows + n] += 1;
            rows[4 * n_rows + n] = at + 1;
        }
    }
}
