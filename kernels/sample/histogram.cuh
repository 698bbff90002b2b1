// Sums by ranges of ranks or of ids: integers in 2048 bins of shared memory, which have no order.
#pragma once

#include "sample/row.cuh"

// Adds to a bin: 64 bits in two halves, with what the lower one carries.
__device__ __forceinline__ void add_to_bin(Board& s, uint32_t bin, unsigned long long x) {
    unsigned low = (unsigned)x, high = (unsigned)(x >> 32);
    if (low) high += atomicAdd(&s.low[bin], low) + low < low;
    if (high) atomicAdd(&s.high[bin], high);
}

// The bins of all blocks of a row, added up: each adds up a part of them, and gives it to all.
__device__ __forceinline__ void add_bins_of_blocks(Board& s) {
    if (BLOCKS == 1) return;
    constexpr int EACH = BINS / BLOCKS;
    int bin = block_of_row() * EACH + threadIdx.x;
    bool mine = threadIdx.x < EACH;
    unsigned long long sum = 0;
    row_meets();  // the bins of each are full
#pragma unroll
    for (int b = 0; mine && b < BLOCKS; b++) {
        sum += (unsigned long long)*of_block(&s.high[bin], b) << 32;
        sum += *of_block(&s.low[bin], b);
    }
    row_meets();  // and read
    if (mine) {
        give(&s.low[bin], (unsigned)sum);
        give(&s.high[bin], (unsigned)(sum >> 32));
    }
    row_meets();  // the bins are the row's
}

// Sums of an integer over the bins: bin_of(id, rank) of the logits from rank `least` to `most`, `x(z)` each.
template <typename BinOf, typename X>
__device__ __forceinline__ void histogram(const Row& row, int32_t least, int32_t most, BinOf bin_of, X x) {
    for (int i = threadIdx.x; i < BINS; i += blockDim.x) row.s.low[i] = row.s.high[i] = 0;
    __syncthreads();  // the bins are empty
    each_from(row, least, [&](int id, float z, int32_t key) {
        if (key <= most) add_to_bin(row.s, bin_of(id, key), x(z));
    });
    __syncthreads();  // the bins are full
    add_bins_of_blocks(row.s);
}

// The last bin such that it and those behind it have `want` or more together, or -1; and what those behind it have.
struct Place {
    int bin;
    unsigned long long behind;
};

// Sum of a lane and those behind it.
__device__ __forceinline__ unsigned long long behind_sum(unsigned long long x) {
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
        unsigned long long y = __shfl_down_sync(ALL_LANES, x, by);
        if (threadIdx.x % 32 + by < 32) x += y;
    }
    return x;
}

// One warp calls.
__device__ __forceinline__ Place place_of(const Board& s, unsigned long long want) {
    constexpr int EACH = BINS / 32;
    static_assert(EACH == 64, "two bins a lane in the second look");
    int lane = threadIdx.x % 32;
    auto value = [&](int bin) { return (unsigned long long)s.high[bin] << 32 | s.low[bin]; };
    unsigned long long sum = 0;
    // Each lane begins at another bin of its 64, so in another bank.
    for (int i = 0; i < EACH; i++) sum += value(lane * EACH + (i + lane) % EACH);
    sum = behind_sum(sum);
    unsigned reach = __ballot_sync(ALL_LANES, sum >= want);
    if (reach == 0) return {-1, 0};
    int part = 31 - __clz(reach);
    unsigned long long behind = __shfl_sync(ALL_LANES, sum, (part + 1) % 32);
    if (part == 31) behind = 0;
    unsigned long long upper = value(part * EACH + 2 * lane + 1);
    sum = behind_sum(value(part * EACH + 2 * lane) + upper) + behind;
    int pair = 31 - __clz(__ballot_sync(ALL_LANES, sum >= want));
    unsigned long long after = __shfl_sync(ALL_LANES, sum, (pair + 1) % 32);
    if (pair == 31) after = behind;
    upper = __shfl_sync(ALL_LANES, upper, pair) + after;
    return {part * EACH + 2 * pair + (upper >= want), upper >= want ? after : upper};
}

// The id of the m-th token (from 1) of rank `key`, of which there are as many.
__device__ __forceinline__ int32_t nth_of_rank(const Row& row, int32_t key, int m) {
    // Ids in descending order of their ranges, so that the last bin is the first range.
    int range = (int)ceil_div(row.len, BINS);
    histogram(row, key, key, [=](int id, int32_t) { return BINS - 1 - id / range; }, [](float) { return 1ull; });
    if (threadIdx.x < 32) {
        Place place = place_of(row.s, m);
        int left = m - (int)place.behind, from = (BINS - 1 - place.bin) * range;
        for (int at = from; at < from + range && left > 0; at += 32) {
            int id = at + threadIdx.x;
            bool is = id < min(from + range, row.len) && rank_f32(row.z[id]) == key;
            unsigned votes = __ballot_sync(ALL_LANES, is);
            if (is && __popc(votes & ((1u << threadIdx.x) - 1)) == left - 1) row.s.token = id;
            left -= __popc(votes);
        }
    }
    __syncthreads();  // s.token is the id
    return row.s.token;
}
