// Sums by ranges of ranks or of ids: integers in 128 bins of shared memory, which have no order.
//
// A bin is a counter for each lane of a warp: no two lanes meet in a bank, nor at a counter, whatever their bins are. Where blocks
// share a row, lanes l and l + 16 have one: a block has so few logits that clearing more costs more than two lanes' meeting.
#pragma once

#include "sample/row.cuh"

constexpr int OF_LANE = BINS / 32;  // bins of a lane where a warp looks at all of them

// Adds to a bin: 64 bits in two halves, with what the lower one carries.
__device__ __forceinline__ void add_to_bin(Board& s, uint32_t bin, unsigned long long x) {
    int at = bin * COUNTERS + threadIdx.x % COUNTERS;
    unsigned low = (unsigned)x, high = (unsigned)(x >> 32);
    if (low) high += atomicAdd(&s.low[at], low) + low < low;
    if (high) atomicAdd(&s.high[at], high);
}

// The counters of each bin, added up, then those of all blocks of a row, into s.bins [OF_LANE, 32]: bin b stands at
// b % OF_LANE, b / OF_LANE.
__device__ __forceinline__ void add_counters(Board& s) {
    unsigned long long* own = BLOCKS > 1 ? s.given_bins : s.bins;
    for (int i = threadIdx.x; i < BINS; i += blockDim.x) {
        // Half warps have bins of other parity, side by side other counters: each lane reads from a bank of its own.
        int lane = i % 32, nth = (i / 32 + lane / 16) % OF_LANE;
        unsigned long long sum = 0;
#pragma unroll 16
        for (int c = 0; c < COUNTERS; c++) {
            int at = (lane * OF_LANE + nth) * COUNTERS + (c + lane) % COUNTERS;
            sum += (unsigned long long)s.high[at] << 32;
            sum += s.low[at];
        }
        own[nth * 32 + lane] = sum;
    }
    row_meets();  // the block's bins are there
    for (int i = threadIdx.x; BLOCKS > 1 && i < BINS; i += blockDim.x) {
        unsigned long long sum = 0;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) sum += *of_block(&s.given_bins[i], b);
        s.bins[i] = sum;
    }
    if (BLOCKS > 1) __syncthreads();  // the bins are the row's
}

// Sums of an integer over the bins: bin_of(id, rank) of the logits from rank `least` to `most`, `x(z)` each. At what falls into
// bin BINS nobody looks.
template <typename BinOf, typename X>
__device__ __forceinline__ void histogram(const Row& row, int32_t least, int32_t most, BinOf bin_of, X x) {
    for (int i = threadIdx.x; i < (BINS + 1) * COUNTERS; i += blockDim.x) row.s.low[i] = row.s.high[i] = 0;
    row_meets();  // the counters are empty, the bins of the histogram before are read
    each_from(row, least, [&](int id, float z, int32_t key) {
        if (key <= most) add_to_bin(row.s, bin_of(id, key), x(z));
    });
    __syncthreads();  // the counters are full
    add_counters(row.s);
}

// The last bin such that it and those behind it have what is wanted or more together, or -1; and what those behind it have.
struct Place {
    int bin;
    unsigned long long behind;
};

// A warp's look at the bins.
struct Bins {
    unsigned long long of_lane[OF_LANE], behind;  // OF_LANE neighbours, and the sum of those behind them
    __device__ __forceinline__ explicit Bins(const Board& s) {
        int lane = threadIdx.x % 32;
        unsigned long long own = 0;
#pragma unroll
        for (int i = 0; i < OF_LANE; i++) own += of_lane[i] = s.bins[i * 32 + lane];
        unsigned long long sum = own;
#pragma unroll
        for (int by = 1; by < 32; by *= 2) {
            unsigned long long more = __shfl_down_sync(ALL_LANES, sum, by);
            if (lane + by < 32) sum += more;
        }
        behind = sum - own;
    }
    __device__ __forceinline__ Place place_of(unsigned long long want) const {
        int bin = -1;
        unsigned long long after = behind;
#pragma unroll
        for (int i = OF_LANE - 1; i >= 0; i--) {
            if (bin >= 0) continue;
            if (after + of_lane[i] >= want) {
                bin = threadIdx.x % 32 * OF_LANE + i;
            } else {
                after += of_lane[i];
            }
        }
        unsigned reach = __ballot_sync(ALL_LANES, bin >= 0);
        if (reach == 0) return {-1, 0};
        int last = 31 - __clz(reach);
        return {__shfl_sync(ALL_LANES, bin, last), __shfl_sync(ALL_LANES, after, last)};
    }
};

// The id of the m-th token (from 1) of rank `key`, of which there are as many.
__device__ __forceinline__ int32_t nth_of_rank(const Row& row, int32_t key, int m) {
    int from = 0, range = row.len;  // ids among which it is
    while (range > 32) {
        // Parts of the range, the first in the last bin; an id before or behind them is in BINS.
        uint32_t first = from, shift = max(0, 32 - BIN_BITS - __clz(range - 1));
        auto bin_of = [=](int id, int32_t) { return min(BINS - 1 - (((uint32_t)id - first) >> shift), (uint32_t)BINS); };
        histogram(row, key, key, bin_of, [](float) { return 1ull; });
        if (threadIdx.x < 32) {
            Place place = Bins(row.s).place_of(m);
            if (threadIdx.x == 0) {
                row.s.first = from + ((BINS - 1 - place.bin) << shift);
                row.s.last = m - (int)place.behind;
            }
        }
        __syncthreads();  // s.first is the part's first id, s.last which of its tokens it is
        from = row.s.first;
        m = row.s.last;
        range = 1 << shift;
        __syncthreads();  // and read
    }
    if (threadIdx.x < 32) {
        int id = from + threadIdx.x;
        bool is = (int)threadIdx.x < range && id < row.len && rank_f32(row.z[id]) == key;
        unsigned votes = __ballot_sync(ALL_LANES, is);
        if (is && __popc(votes & ((1u << threadIdx.x) - 1)) == m - 1) row.s.token = id;
    }
    __syncthreads();  // s.token is the id
    return row.s.token;
}
