// A row of logits as sampling walks it: four at a time, in the order of its sums (common/softmax.cuh) or in any.
//
// A piece is 256 logits, or all of a row of one span; its largest stands in shared memory, so that a walk leaves out the
// pieces that have nothing it looks for. Where the order counts, four threads, a quad, have a piece or a span: thread t has
// lanes 4t to 4t + 3 of the sixteen, which are 16 bytes in memory.
//
// BLOCKS blocks walk a row together, which whoever includes this says: one, or a cluster. Each takes its part of a walk and gives
// what it found to all, and from then on all do the same; so there is one order of sums, whatever BLOCKS is.
#pragma once

#include "common/cluster.cuh"
#include "common/order.cuh"
#include "common/softmax.cuh"

constexpr int CUTS = 8;     // sums of one exact walk
constexpr int BIN_BITS = 7, BINS = 1 << BIN_BITS;  // of a histogram
constexpr int COUNTERS = BLOCKS > 1 ? 16 : 32;     // of a bin
constexpr int AHEAD = 4;    // loads of a thread that are under way together
constexpr int CHUNKS = SPAN / SPAN_LANES;
constexpr int32_t EVERY = 0x7fffffff, LOWEST = -EVERY - 1;  // above and below each rank

// What the threads of a block tell each other, and blocks of a row.
struct Board {
    unsigned low[(BINS + 1) * COUNTERS], high[(BINS + 1) * COUNTERS];  // halves of sums
    unsigned long long bins[BINS], given_bins[BLOCKS > 1 ? BINS : 1];
    float chunk[CHUNKS], cut[CUTS];
    int32_t ties[CUTS], row_ties[CUTS];
    unsigned long long over;
    int32_t first, last, token;
    float max, sum;
    int32_t given[BLOCKS];  // what each of them has found
};

// The block's number among those of its row.
__device__ __forceinline__ int block_of_row() { return BLOCKS > 1 ? (int)cluster_ctarank() : 0; }

// All threads of the row's blocks meet.
__device__ __forceinline__ void row_meets() {
    if (BLOCKS > 1) {
        barrier_cluster();
    } else {
        __syncthreads();
    }
}

// Where `here`, in this block's shared memory, stands in that of block b of the row.
template <class T>
__device__ __forceinline__ T* of_block(T* here, int b) {
    return BLOCKS > 1 ? mapa(here, b) : here;
}

// Stores x to where `to`, in this block's shared memory, stands in that of all blocks of the row.
template <class T>
__device__ __forceinline__ void give(T* to, T x) {
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) *of_block(to, b) = x;
}

// What all blocks of the row have found, merged; `found` is what all threads of this one have.
template <typename Merge>
__device__ __forceinline__ int32_t of_all_blocks(Board& s, const int32_t& found, Merge merge) {
    if (BLOCKS == 1) return found;
    if (threadIdx.x == 0) give(&s.given[block_of_row()], found);
    row_meets();  // s.given holds what each has found
    int32_t all = s.given[0];
#pragma unroll
    for (int b = 1; b < BLOCKS; b++) all = merge(all, s.given[b]);
    return all;
}

// Logits at, ..., at + 3 of `len`; -inf behind their end. `vectors`: z is on a boundary of 16 bytes, `at` a multiple of 4.
__device__ __forceinline__ Pack<float, 4> load_four(const float* z, int at, int len, bool vectors) {
    if (vectors && at + 4 <= len) return load_pack<4>(z + at);
    Pack<float, 4> x;
#pragma unroll
    for (int e = 0; e < 4; e++) x.v[e] = at + e < len ? z[at + e] : NEG_INF;
    return x;
}

__device__ __forceinline__ void store_four(float* z, int at, int len, bool vectors, const Pack<float, 4>& x) {
    if (vectors && at + 4 <= len) return store_pack(z + at, x);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        if (at + e < len) z[at + e] = x.v[e];
    }
}

struct Row {
    float* z;  // [len], scaled
    int len, n_spans, n_pieces, piece_bits;  // a piece has 1 << piece_bits
    float max, sum;  // of its softmax
    bool vectors;    // z is on a boundary of 16 bytes
    bool ordered;    // it has no NaN, and something to draw
    float* s_max;    // [place(n_pieces)] the largest of each, and
    float* s_sum;    // [place(n_pieces)] its sum of exp(z - largest)
    float* s_part;   // [n_spans, CUTS]
    Board& s;
    __device__ __forceinline__ int piece() const { return 1 << piece_bits; }
    __device__ __forceinline__ int pieces_of_span() const { return SPAN >> piece_bits; }
    // Where a piece's numbers stand: those of spans that threads walk side by side, eight pieces each, in different banks.
    static __device__ __forceinline__ int place(int piece) { return piece + piece / 8; }
    // Whether the piece of this logit has one of rank `least` or more.
    __device__ __forceinline__ bool reaches(int id, int32_t least) const {
        return rank_f32(s_max[place(id >> piece_bits)]) >= least;
    }
    __device__ __forceinline__ Pack<float, 4> four(int at, int end) const { return load_four(z, at, end, vectors); }
};

// Largest and sum of exp(z - largest) of z [width] times scale, for each thread of the quad; z gets the scaled logits
// when STORE. Bits of piece_sums. The whole warp calls.
template <bool STORE>
__device__ __forceinline__ SoftmaxSums quad_sums(float* z, int width, float scale, bool vectors) {
    int lane = threadIdx.x % 4 * 4;
    float most[4] = {NEG_INF, NEG_INF, NEG_INF, NEG_INF}, sum[4] = {};
#pragma unroll 4
    for (int i = lane; i < width; i += SPAN_LANES) {
        Pack<float, 4> x = load_four(z, i, width, vectors);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float v = x.v[e] * scale;
            most[e] = v > most[e] ? v : most[e];
        }
    }
    float max = vector_max(most), base = max > NEG_INF ? max : 0.0f;
#pragma unroll 4
    for (int i = lane; i < width; i += SPAN_LANES) {
        Pack<float, 4> x = load_four(z, i, width, vectors);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            x.v[e] *= scale;
            if (i + e < width) sum[e] += exp_log_prob_f32(x.v[e] - base);
        }
        if (STORE) store_four(z, i, width, vectors, x);
    }
    return {max, vector_sum(sum), 0.0f};
}

// Largest and sum of the row, from those of its pieces, into row.max and row.sum; bits of merge_parts. s_part is used.
__device__ __forceinline__ void merge_pieces(Row& row) {
    for (int c = threadIdx.x; c < row.n_spans; c += blockDim.x) {
        SoftmaxSums span = {NEG_INF, 0.0f, 0.0f};
        int first = c * row.pieces_of_span(), end = min(first + row.pieces_of_span(), row.n_pieces);
        for (int i = first; i < end; i++) {
            float max = row.s_max[row.place(i)];
            span.max = max > span.max ? max : span.max;
        }
        for (int i = first; i < end; i++) add_part(span, {row.s_max[row.place(i)], row.s_sum[row.place(i)], 0.0f});
        row.s_part[2 * c] = span.max;
        row.s_part[2 * c + 1] = span.sum;
    }
    __syncthreads();  // s_part holds the spans'
    if (threadIdx.x < 32) {
        float max = NEG_INF;
        for (int c = threadIdx.x; c < row.n_spans; c += 32) max = row.s_part[2 * c] > max ? row.s_part[2 * c] : max;
        max = lanes_max<32>(max);
        float base = max > NEG_INF ? max : 0.0f;
        // A span's share is its own affair; only their sum has an order.
        for (int c = threadIdx.x; c < row.n_spans; c += 32) row.s_part[2 * c] = exp_log_prob_f32(row.s_part[2 * c] - base);
        __syncwarp();  // s_part holds shares
        if (threadIdx.x == 0) {
            float sum = 0.0f;
#pragma unroll 4
            for (int c = 0; c < row.n_spans; c++) sum = fmaf(row.s_part[2 * c + 1], row.s_part[2 * c], sum);
            row.s.max = max;
            row.s.sum = sum;
        }
    }
    __syncthreads();  // s.max, s.sum are the row's
    row.max = row.s.max;
    row.sum = row.s.sum;
}

// Calls body(id, z, rank) for the block's logits of rank `least` or more, in no order.
template <typename Body>
__device__ __forceinline__ void each_from(const Row& row, int32_t least, Body body) {
    int step = BLOCKS * blockDim.x * 4;
    for (int first = (block_of_row() * blockDim.x + threadIdx.x) * 4; first < row.len; first += AHEAD * step) {
        Pack<float, 4> x[AHEAD] = {};
        bool live[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int at = first + a * step;
            live[a] = at < row.len && row.reaches(at, least);
            if (live[a]) x[a] = row.four(at, row.len);
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int at = first + a * step;
            if (!live[a]) continue;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int32_t key = rank_f32(x[a].v[e]);
                if (key >= least && at + e < row.len) body(at + e, x[a].v[e], key);
            }
        }
    }
}

// Counts, in s.ties, a rank that is one of the cuts: as that of the first of equal ones.
__device__ __forceinline__ void count_tie(const Row& row, const int32_t (&cut)[CUTS], int32_t key) {
    int tie = CUTS;
#pragma unroll
    for (int j = CUTS - 1; j >= 0; j--) tie = key == cut[j] ? j : tie;
    if (tie < CUTS) atomicAdd(&row.s.ties[tie], 1);
}

// Calls body(span, first id, end) for each of the quad's spans; idle quads get an empty one. Warps stay together.
template <typename Body>
__device__ __forceinline__ void each_span(const Row& row, Body body) {
    int quad = threadIdx.x / 4, quads = blockDim.x / 4;
    for (int i = quad; (i - quad % 8) * BLOCKS < row.n_spans; i += quads) {
        int span = i * BLOCKS + block_of_row(), from = span * SPAN;
        body(span, from, span < row.n_spans ? min(from + SPAN, row.len) : from);
    }
}
