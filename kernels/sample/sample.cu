// sample          one token a row by inverse CDF, and its log-probability under the whole softmax
//
// Shapes          logits [N, V] f32, scaled in place   temperature, top_p, min_p [N] f32   top_k [N] i32
//                 key [N, 3] u64: seed, stream, position   token [N] i32   logprob [N] f32
// Numerics        f32. Likelier is a higher scaled logit, or among equals a lower id. top-k keeps the first k of that
//                 order, top-p its shortest beginning whose probability reaches top_p, min-p what has min_p times the
//                 probability of the likeliest; all judge the whole softmax, what passes all is drawn in proportion.
//                 Nothing is sorted: a beginning is found by halving the range of its last rank, 32 looks at the row.
// Parallel        one block a row, 16 threads a span of 2048.
// Cost            reads 16 V bytes, writes 4V a row (all but the first 4V from cache); a filter by k or p 128 V more.
// Determinism     one order of every sum (common/softmax.cuh), counter-based noise: the decisions of the CPU device, and
//                 logprobs with the bits of linear_logprob_fwd. A row's bits depend on that row alone.
// Source          Salmon et al. 2011 (noise); Holtzman et al. 2019, arXiv:1904.09751 (top-p); arXiv:2407.01082 (min-p).
// Oracle          src/ops/sample/oracle.rs
#include "common/order.cuh"
#include "common/philox.cuh"
#include "common/shared.cuh"
#include "common/softmax.cuh"

constexpr int MAX_THREADS = 256;

// A row of scaled logits, and the threads that look at it.
struct Row {
    const float* z;  // [V]
    int vocab, n_spans;
    float* s_span;  // [n_spans]
};

// Calls body(span, z's offset, width) for the span of this group of lanes, span by span; idle groups get width 0.
template <typename Body>
__device__ __forceinline__ void each_span(int vocab, int n_spans, Body body) {
    int groups = blockDim.x / SPAN_LANES, group = threadIdx.x / SPAN_LANES;
    for (int span = group; span - group < n_spans; span += groups) {
        int from = span * SPAN;
        body(span, from, max(0, min(SPAN, vocab - from)));
    }
}

// Sum of weight(id, z) over the row, for every thread of the block.
template <typename Weight>
__device__ __forceinline__ float row_sum(const Row& row, Weight weight) {
    int lane = threadIdx.x % SPAN_LANES;
    each_span(row.vocab, row.n_spans, [&](int span, int from, int width) {
        float sum = 0.0f;
#pragma unroll 4
        for (int i = from + lane; i < from + width; i += SPAN_LANES) sum += weight(i, row.z[i]);
        sum = lanes_sum<SPAN_LANES>(sum);
        if (lane == 0 && width > 0) row.s_span[span] = sum;
    });
    __syncthreads();  // s_span holds the spans' sums
    float total = 0.0f;
    for (int c = 0; c < row.n_spans; c++) total += row.s_span[c];
    __syncthreads();  // s_span is read before it is written again
    return total;
}

// Tokens whose rank is above `key`, or equal to it with an id up to `last`.
struct Beginning {
    int32_t key, last;
    __device__ __forceinline__ bool holds(int id, float z) const {
        int32_t k = rank_f32(z);
        return k > key || (k == key && id <= last);
    }
};

constexpr int32_t EVERY = 0x7fffffff;
constexpr int32_t LOWEST = -EVERY - 1;

// The id of the m-th token (from 1) of rank `key`; EVERY when there are fewer. One warp looks, all threads learn it.
__device__ __forceinline__ int32_t nth_of_rank(const Row& row, int32_t key, int m, int32_t* s_found) {
    if (threadIdx.x == 0) *s_found = EVERY;
    __syncthreads();  // s_found is set
    if (threadIdx.x < 32) {
        for (int at = 0; at < row.vocab; at += 32) {
            int i = at + threadIdx.x;
            bool is = i < row.vocab && rank_f32(row.z[i]) == key;
            unsigned votes = __ballot_sync(ALL_LANES, is);
            int here = __popc(votes);
            if (here >= m) {
                if (is && __popc(votes & ((1u << threadIdx.x) - 1)) == m - 1) *s_found = i;
                break;
            }
            m -= here;
        }
    }
    __syncthreads();  // s_found is final
    return *s_found;
}

// The shortest beginning of the order of likelihood whose weights add up to `want` or more; else all. Equal ranks have
// equal weights.
template <typename Weight>
__device__ __forceinline__ Beginning beginning(const Row& row, float want, Weight weight, int32_t* s_found) {
    auto above = [&](int32_t key) {
        return row_sum(row, [&](int, float z) { return rank_f32(z) > key ? weight(z) : 0.0f; });
    };
    // Invariant: what is above `low` reaches `want`, what is above `high` does not.
    int64_t low = (int64_t)LOWEST - 1, high = EVERY;
    while (high - low > 1) {
        int64_t middle = (low + high) >> 1;
        if (above((int32_t)middle) >= want) {
            low = middle;
        } else {
            high = middle;
        }
    }
    int32_t key = (int32_t)high;
    float reached = above(key);
    int count = (int)row_sum(row, [&](int, float z) { return rank_f32(z) == key ? 1.0f : 0.0f; });
    float each = weight(__uint_as_float((uint32_t)(key ^ (int32_t)((uint32_t)(key >> 31) >> 1))));
    int m = 0;
    while (m < count && !(reached >= want && m > 0)) {
        reached += each;
        m++;
    }
    if (!(m > 0 && reached >= want)) return {key, EVERY};
    return {key, nth_of_rank(row, key, m, s_found)};
}

// The first token at which the sum of weights exceeds `at`; the last one that has any weight if rounding keeps the sum
// below. Spans are summed side by side; the one where the sum crosses is walked, sixteen tokens at a time.
template <typename Weight>
__device__ __forceinline__ int inverse_cdf(const Row& row, float at, Weight weight, int32_t* s_found) {
    int lane = threadIdx.x % SPAN_LANES;
    if (threadIdx.x == 0) *s_found = 0;
    __syncthreads();  // s_found is set
    int last = 0, widest = min(SPAN, (int)ceil_div(row.vocab, SPAN_LANES) * SPAN_LANES);
    each_span(row.vocab, row.n_spans, [&](int span, int from, int width) {
        float total = 0.0f;
        for (int i = lane; i < widest; i += SPAN_LANES) {
            float w = i < width ? weight(from + i, row.z[from + i]) : 0.0f;
            float sum = lanes_sum<SPAN_LANES>(w);
            if (w > 0.0f && sum > 0.0f) last = from + i;
            total += sum;
        }
        if (lane == 0 && width > 0) row.s_span[span] = total;
    });
    if (last > 0) atomicMax(s_found, last);
    __syncthreads();  // s_span holds the spans' sums, s_found the last token that has weight
    if (threadIdx.x < 32) {
        int found = -1;
        float before = 0.0f;
        for (int c = 0; c < row.n_spans && found < 0; c++) {
            float need = at - before, total = row.s_span[c], cumulative = 0.0f;
            before += total;
            if (!(total > need)) continue;
            int from = c * SPAN, width = min(SPAN, row.vocab - from);
            for (int j = 0; j < width && found < 0; j += SPAN_LANES) {
                float w = j + lane < width ? weight(from + j + lane, row.z[from + j + lane]) : 0.0f;
                float sum = lanes_sum<SPAN_LANES>(w);
                if (cumulative + sum > need) {
                    float inside = cumulative;
                    for (int l = 0; l < SPAN_LANES; l++) {
                        float wl = __shfl_sync(ALL_LANES, w, l);
                        inside += wl;
                        if (found < 0 && wl > 0.0f && inside > need) found = from + j + l;
                    }
                }
                cumulative += sum;
            }
        }
        if (threadIdx.x == 0 && found >= 0) *s_found = found;
    }
    __syncthreads();  // s_found is the token
    return *s_found;
}

// A draw from what the filters keep; u in (0, 1).
__device__ __forceinline__ int draw(const Row& row, float max, float sum, float u, int top_k, float top_p, float min_p,
                                    int32_t* s_found) {
    auto p = [=](float z) { return exp_f32(z - max); };
    if (top_k <= 0 && top_p >= 1.0f && min_p <= 0.0f) {
        return inverse_cdf(row, u * sum, [&](int, float z) { return p(z); }, s_found);
    }
    Beginning by_k = {LOWEST, EVERY}, by_p = {LOWEST, EVERY};
    if (top_k > 0) by_k = beginning(row, (float)top_k, [](float) { return 1.0f; }, s_found);
    // Whatever top_p and min_p are, the likeliest stays.
    if (!(top_p >= 1.0f)) by_p = beginning(row, fmaxf(top_p * sum, 1.17549435e-38f), p, s_found);
    float least = fminf(min_p, 1.0f);
    auto kept = [&](int i, float z) {
        float w = p(z);
        return by_k.holds(i, z) && by_p.holds(i, z) && w >= least ? w : 0.0f;
    };
    float total = row_sum(row, kept);
    return inverse_cdf(row, u * total, kept, s_found);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS)
    sample(float* logits,                          // [N, V], scaled in place
           const float* __restrict__ temperature,  // [N]
           const int32_t* __restrict__ top_k,      // [N]
           const float* __restrict__ top_p,        // [N]
           const float* __restrict__ min_p,        // [N]
           const uint64_t* __restrict__ key,       // [N, 3]
           int32_t* token,                         // [N]
           float* logprob,                         // [N]
           int32_t vocab,
           int32_t end) {                          // ids from here on are not drawn
    SHARED_DYNAMIC(float, s_part);  // [n_spans, 3], later [n_spans]
    __shared__ int32_t s_found;
    int64_t n = blockIdx.x;
    float* z = logits + n * vocab;
    int n_spans = (int)ceil_div(vocab, SPAN), lane = threadIdx.x % SPAN_LANES;
    float t = temperature[n], scale = t > 0.0f ? 1.0f / t : 1.0f;
    // Scaled logits; a thread later reads what it wrote, but for the walk and the taken one.
    each_span(vocab, n_spans, [&](int span, int from, int width) {
        for (int i = from + lane; i < from + width; i += SPAN_LANES) z[i] = z[i] * scale;
        SoftmaxSums s = span_sums(z + from, width, lane, 1.0f, n_spans > 1);
        if (lane == 0 && width > 0) {
            s_part[3 * span] = s.max;
            s_part[3 * span + 1] = s.sum;
            s_part[3 * span + 2] = s.dot;
        }
    });
    if (threadIdx.x == 0) s_found = EVERY;
    __syncthreads();  // s_part holds the spans' sums, z the scaled logits
    SoftmaxSums sums = merge_parts(s_part, n_spans);
    __syncthreads();  // s_part is read before row_sum writes there
    SoftmaxSums drawn = sums;
    int n_drawn = (int)ceil_div(end, SPAN);
    if (end < vocab) {
        each_span(end, n_drawn, [&](int span, int from, int width) {
            SoftmaxSums s = span_sums(z + from, width, lane, 1.0f, n_drawn > 1);
            if (lane == 0 && width > 0) {
                s_part[3 * span] = s.max;
                s_part[3 * span + 1] = s.sum;
                s_part[3 * span + 2] = s.dot;
            }
        });
        __syncthreads();  // s_part holds the sums of what may be drawn
        drawn = merge_parts(s_part, n_drawn);
        __syncthreads();  // s_part is read before row_sum writes there
    }
    Row row = {z, end, n_drawn, s_part};
    int taken;
    if (t > 0.0f) {
        float u = noise_uniform(key[3 * n], key[3 * n + 1], key[3 * n + 2]);
        taken = draw(row, drawn.max, drawn.sum, u, top_k[n], top_p[n], min_p[n], &s_found);
    } else {
        // The first of the likeliest.
        int32_t first = EVERY;
        each_span(end, n_drawn, [&](int, int from, int width) {
            for (int i = from + lane; i < from + width; i += SPAN_LANES) {
                if (z[i] == drawn.max && first == EVERY) first = i;
            }
        });
        if (first != EVERY) atomicMin(&s_found, first);
        __syncthreads();  // s_found is the token
        taken = s_found == EVERY ? 0 : s_found;
    }
    if (threadIdx.x == 0) {
        token[n] = taken;
        logprob[n] = z[taken] - (sums.max + log_f32(sums.sum));
    }
}
