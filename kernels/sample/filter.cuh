// The shortest beginning of the order of likelihood that reaches something: what top-k and top-p keep.
//
// A beginning ends at a rank. Walks of two kinds look for it. A histogram of the ranks that are still possible adds weights
// as integers, which have no order, and leaves of 128 parts of them one, or as many as lie within the error of a float sum
// from what is wanted. Where many ranks are left, those that occur are listed. Then sums in the row's own order, above eight
// ranks at a time, decide: so the beginning is to the bit what the CPU finds by halving. Such sums do not fall when a rank
// does, so any search finds the same.
#pragma once

#include "sample/histogram.cuh"
#include "sample/wide.cuh"

constexpr float UNIT = 68719476736.0f;  // 2^36: what a weight of 1 is in a histogram

// Tokens whose rank is above `key`, or equal to it with an id up to `last`.
struct Beginning {
    int32_t key, last;
    __device__ __forceinline__ bool holds(int id, float z) const {
        int32_t k = rank_f32(z);
        return k > key || (k == key && id <= last);
    }
};

// What a token counts: 1 where tokens are counted, else its probability over the likeliest one's.
struct Weight {
    bool count;
    float max;
    __device__ __forceinline__ float operator()(float z) const { return count ? 1.0f : exp_log_prob_f32(z - max); }
};

// sums_above of this quad's spans.
__device__ __forceinline__ void sums_above_by_quads(const Row& row, const int32_t (&cut)[CUTS], const Weight& weight) {
    each_span(row, [&](int span, int from, int end) {
        float sum[CUTS][4] = {};
        for (int at = from; at < end; at += row.piece()) {
            if (!row.reaches(at, cut[CUTS - 1])) continue;
            int stop = min(at + row.piece(), end);
#pragma unroll 2
            for (int i = at + threadIdx.x % 4 * 4; i < stop; i += SPAN_LANES) {
                Pack<float, 4> x = row.four(i, stop);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int32_t key = rank_f32(x.v[e]);
                    if (i + e >= stop || key < cut[CUTS - 1]) continue;
                    float w = weight(x.v[e]);
#pragma unroll
                    for (int j = 0; j < CUTS; j++) {
                        if (key > cut[j]) sum[j][e] += w;
                    }
                    count_tie(row, cut, key);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < CUTS; j++) {
            float total = vector_sum(sum[j]);
            if (threadIdx.x % 4 == 0 && from < end) give(&row.s_part[span * CUTS + j], total);
        }
    });
}

// Sums of weight(z) over what is above each of the ranks cut[0] >= cut[1] >= ..., into s.cut, in the row's order; and how
// many have such a rank, into s.row_ties, that of the first of equal ones.
__device__ __forceinline__ void sums_above(const Row& row, const int32_t (&cut)[CUTS], const Weight& weight) {
    if (threadIdx.x < CUTS) row.s.ties[threadIdx.x] = 0;
    row_meets();  // s.ties is empty; s_part is free
    BLOCKS > 1 ? sums_above_by_warps(row, cut, weight) : sums_above_by_quads(row, cut, weight);
    row_meets();  // s_part holds the spans' sums, s.ties of each block its own
    if (threadIdx.x < CUTS) {
        int32_t ties = 0;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) ties += *of_block(&row.s.ties[threadIdx.x], b);
        row.s.row_ties[threadIdx.x] = ties;
        float total = 0.0f;
        for (int c = 0; c < row.n_spans; c++) total += row.s_part[c * CUTS + threadIdx.x];
        row.s.cut[threadIdx.x] = total;
    }
    row_meets();  // s.cut, s.row_ties hold the row's
}

// Ranks a beginning may end at: what is from `least` on reaches, or `least` is LOWEST; what is above `most` does not.
struct Range {
    int32_t least, most;
    __device__ __forceinline__ uint32_t width() const { return (uint32_t)most - (uint32_t)least; }  // ranks less one
};

// Narrows a range by histograms until it has few ranks or does not shrink; false when the beginning ends below `floor`, or
// at nothing. `error`: how far, of itself, a sum in the row's order may be from the true one. `range.least` is a guess.
__device__ __forceinline__ bool narrow(const Row& row, float want, float error, int32_t floor, Range& range,
                                       const Weight& weight) {
    double goal = (double)fminf(want, 67108864.0f) * UNIT;
    long long lost = error > 0.0f ? row.len + 1ll : 0;  // what integers cut off
    unsigned long long surely = (unsigned long long)(goal * (1.0 + 1.01 * error)) + (error > 0.0f);
    unsigned long long perhaps = (unsigned long long)max(1ll, (long long)(goal * (1.0 - 1.01 * error)) - lost);
    unsigned long long over = 0;  // above the range
    bool sure = range.least == LOWEST;
    while (!(sure && range.width() < CUTS)) {
        uint32_t width = range.width(), from = (uint32_t)range.least;
        int shift = max(0, 32 - BIN_BITS - __clz((int)width));
        histogram(row, range.least, range.most, [=](int, int32_t key) { return ((uint32_t)key - from) >> shift; },
                     [&](float z) { return (unsigned long long)(weight(z) * UNIT); });
        if (threadIdx.x < 32) {
            Bins bins(row.s);
            Place last = bins.place_of(surely - over), first = bins.place_of(perhaps - over);
            if (threadIdx.x == 0) {
                row.s.last = last.bin;
                row.s.first = first.bin;
                row.s.over = over + first.behind;
            }
        }
        __syncthreads();  // s has the bins of the range that is left
        int last = row.s.last, first = row.s.first;
        over = first < 0 ? over : row.s.over;
        __syncthreads();  // s is read before it is written again
        if (first < 0 && (range.least == floor || range.least == LOWEST)) return false;
        uint32_t behind = from + (((uint32_t)first + 1) << shift) - 1;  // last rank of the first bin
        if (first >= 0 && behind - from < width) range.most = (int32_t)behind;
        if (last < 0 && !sure) {
            range.least = LOWEST;  // the guess was wrong
            sure = true;
            continue;
        }
        sure = true;
        if (last >= 0) range.least = (int32_t)(from + ((uint32_t)last << shift));
        if (range.width() > width / 16) break;
    }
    return true;
}

// The lists in s.low of all blocks of a row, of s.first ranks each, as one in s.low; returns its length. Where that is more than
// `most`, there is none.
__device__ __forceinline__ int add_lists_of_blocks(Board& s, int most) {
    if (BLOCKS == 1) return s.first;
    int n = of_all_blocks(s, s.first, [](int32_t a, int32_t b) { return a + b; });
    if (n > most) return n;
    int to = 0;
    for (int b = 0; b < BLOCKS; b++) {
        for (int i = threadIdx.x; i < s.given[b]; i += blockDim.x) s.high[to + i] = *of_block(&s.low[i], b);
        to += s.given[b];
    }
    row_meets();  // s.high is the list, s.low is read
    for (int i = threadIdx.x; i < n; i += blockDim.x) s.low[i] = s.high[i];
    __syncthreads();  // s.low is the list
    return n;
}

// The ranks of a range as they occur, the highest first, into s.high, and at last LOWEST where the range begins there; how
// many, or 0 when they are too many.
__device__ __forceinline__ int list_ranks(const Row& row, const Range& range) {
    constexpr int MOST = 512;
    if (threadIdx.x == 0) {
        row.s.first = range.least == LOWEST && block_of_row() == 0;
        row.s.low[0] = (unsigned)LOWEST;
    }
    __syncthreads();  // s.first is the list's length
    each_from(row, range.least, [&](int, float, int32_t key) {
        if (key > range.most) return;
        int at = atomicAdd(&row.s.first, 1);
        if (at < MOST) row.s.low[at] = (unsigned)key;
    });
    __syncthreads();  // s.low is the block's list, in any order
    int n = add_lists_of_blocks(row.s, MOST);
    for (int i = threadIdx.x; i < n && n <= MOST; i += blockDim.x) {
        int32_t key = (int32_t)row.s.low[i];
        int place = 0;
        for (int j = 0; j < n; j++) {
            int32_t other = (int32_t)row.s.low[j];
            place += other > key || (other == key && j < i);
        }
        row.s.high[place] = (unsigned)key;
    }
    __syncthreads();  // s.high is the list; s.first, s.low are read
    return n <= MOST ? n : 0;
}

// The shortest beginning of the order of likelihood whose weights add up to `want` or more; all when none does, or when it
// ends below rank `floor`. Equal ranks have equal weights.
__device__ __forceinline__ Beginning beginning(const Row& row, float want, float error, int32_t floor, int32_t guess,
                                               const Weight& weight) {
    Range range = {max(floor, guess), rank_f32(row.max)};
    if (!row.ordered) range = {LOWEST, EVERY};
    if (row.ordered && !narrow(row, want, error, floor, range, weight)) return {LOWEST, EVERY};
    // The last of some places above which too little stands: `width` behind `first`, of the list, or below the highest rank.
    uint32_t first = 0, width = range.width();
    bool listed = false;
    int32_t key = range.most;
    float reached = 0.0f;
    int count = 0;
    for (bool found = false; !found;) {
        if (!listed && row.ordered && width >= CUTS) {
            uint32_t most = (uint32_t)range.most - first;
            int n = list_ranks(row, {(int32_t)(most - width), (int32_t)most});
            listed = n > 0;
            if (listed) {
                first = 0;
                width = (uint32_t)n - 1;
            }
        }
        found = width < CUTS;  // each place is one of the cuts
        auto place = [=](int j) {
            return width < CUTS ? min((uint32_t)j, width) : (uint32_t)((uint64_t)width * j / CUTS);
        };
        int32_t cut[CUTS];
#pragma unroll
        for (int j = 0; j < CUTS; j++) {
            uint32_t at = first + place(j);
            cut[j] = (int32_t)(listed ? row.s.high[at] : (uint32_t)range.most - at);
        }
        sums_above(row, cut, weight);
        int j = 0;
        while (j + 1 < CUTS && !(row.s.cut[j + 1] >= want)) j++;
        reached = row.s.cut[j];
#pragma unroll
        for (int i = 0; i < CUTS; i++) key = i == j ? cut[i] : key;
        count = 0;
#pragma unroll
        for (int i = 0; i < CUTS; i++) count += cut[i] == key ? row.s.row_ties[i] : 0;
        __syncthreads();  // s.cut, s.row_ties are read
        uint32_t behind = j + 1 < CUTS ? place(j + 1) - 1 : width, from = place(j);
        first += from;
        width = behind - from;
    }
    if (count <= 1) return {key, EVERY};
    float each = weight(unrank_f32(key));
    if (threadIdx.x == 0) {
        int m = 1;
        for (reached += each; m < count && !(reached >= want); m++) reached += each;
        row.s.first = m;
    }
    __syncthreads();  // s.first: how many of the rank belong to it
    int m = row.s.first;
    return {key, m < count ? nth_of_rank(row, key, m) : EVERY};
}

// A rank that the k likeliest surely have: that of the k-th of the largest of parts of the row; LOWEST when there are fewer
// parts.
__device__ __forceinline__ int32_t rank_of_kth_part(const Row& row, int k) {
    constexpr int MOST = 1024;
    int each = k <= row.n_spans ? row.pieces_of_span() : 1, n = each > 1 ? row.n_spans : row.n_pieces;
    if (k > n || n > MOST) return LOWEST;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float max = NEG_INF;
        for (int p = i * each; p < min((i + 1) * each, row.n_pieces); p++) max = fmaxf(max, row.s_max[row.place(p)]);
        row.s_part[i] = max;
    }
    if (threadIdx.x == 0) row.s.first = EVERY;
    __syncthreads();  // s_part holds the parts' largest
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float mine = row.s_part[i];
        int larger = 0;
        for (int j = 0; j < n; j++) larger += row.s_part[j] > mine;
        if (larger < k) atomicMin(&row.s.first, rank_f32(mine));
    }
    __syncthreads();  // s.first is the rank
    int32_t rank = row.s.first;
    __syncthreads();  // and read
    return rank;
}
