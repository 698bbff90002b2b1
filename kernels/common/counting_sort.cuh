// A stable counting sort of rows into BINS bins by one block of 32 warps: what embed_order's passes and moe_sort share.
//
// Each warp has a stretch of the rows. Every warp counts its bins, counts become places, every warp puts its rows there, in
// order. No atomics: there is one result. BINS is a multiple of 32, at most 1024.
//
// A warp's counts stand in its lanes, and which rows have a bin it finds by votes on the bins' bits (Ashkiani et al. 2017,
// arXiv:1701.01189, section 5): counters in shared memory would meet in their banks as the rows have it.
#pragma once

#include "common/math.cuh"
#include "common/reduce.cuh"

constexpr int SORT_WARPS = 32;

// Votes of a turn's 32 rows on each bit of their bins, and which are rows.
template <int BITS>
struct Votes {
    unsigned live, bit[BITS];
    __device__ __forceinline__ Votes(bool is_row, int bin) : live(__ballot_sync(ALL_LANES, is_row)) {
#pragma unroll
        for (int b = 0; b < BITS; b++) bit[b] = __ballot_sync(ALL_LANES, bin >> b & 1);
    }
    // Those of `among` whose bits from FROM to TO are those of the bin.
    template <int FROM, int TO>
    __device__ __forceinline__ unsigned like(int bin, unsigned among) const {
#pragma unroll
        for (int b = FROM; b < TO; b++) among &= bin >> b & 1 ? bit[b] : ~bit[b];
        return among;
    }
};

// bin_of(at, row): the bin of the row that stands at `at`, and which row that is. bases(s_base): called by all threads when
// s_base [BINS] holds the rows of lower bins. put(row, place): the row's place. Afterwards s_at and s_base are read, and what
// was put can be read by the block.
template <int BINS, typename BinOf, typename Bases, typename Put>
__device__ __forceinline__ void counting_sort(int32_t* s_at,    // [SORT_WARPS, BINS] shared
                                              int32_t* s_base,  // [BINS] shared
                                              int32_t n_rows, BinOf bin_of, Bases bases, Put put) {
    static_assert(BINS % 32 == 0 && BINS <= SORT_WARPS * 32, "whole turns of a warp, a thread a bin");
    constexpr int EACH = BINS / 32, BITS = EACH > 16 ? 10 : EACH > 8 ? 9 : EACH > 4 ? 8 : 7;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int32_t* s_mine = s_at + warp * BINS + lane;
    int32_t mine[EACH] = {};  // of bins lane, lane + 32, ...: the warp's rows so far, then the place of its next one
    // Whole turns of a warp.
    int64_t each = ceil_div(n_rows, SORT_WARPS * 32) * 32, from = warp * each, to = min(from + each, (int64_t)n_rows);
    // Calls f(row, its bin, votes) for the warp's rows, in order, and counts them behind it.
    auto each_row = [&](auto f) {
        for (int64_t turn = from; turn < to; turn += 32) {
            int64_t at = turn + lane;
            int32_t row = 0;
            int bin = at < to ? bin_of(at, row) : 0;
            Votes<BITS> votes(at < to, bin);
            f(row, bin, votes);
            unsigned alike = votes.template like<0, 5>(lane, votes.live);
#pragma unroll
            for (int i = 0; i < EACH; i++) mine[i] += __popc(votes.template like<5, BITS>(i * 32, alike));
        }
    };
    each_row([](int32_t, int, const Votes<BITS>&) {});
#pragma unroll
    for (int i = 0; i < EACH; i++) s_mine[i * 32] = mine[i];
    __syncthreads();  // s_at holds each warp's count of each bin
    if (threadIdx.x < BINS) {
        int32_t total = 0;
        for (int w = 0; w < SORT_WARPS; w++) {
            int32_t here = s_at[w * BINS + threadIdx.x];
            s_at[w * BINS + threadIdx.x] = total;
            total += here;
        }
        s_base[threadIdx.x] = total;
    }
    __syncthreads();  // s_at holds the rows of a bin in warps before, s_base how many there are
    if (warp == 0) {
        int32_t lower = 0;  // rows of the bins before this turn's
        for (int i = lane; i < BINS; i += 32) {
            int32_t here = s_base[i], upto = here;
            for (int by = 1; by < 32; by *= 2) {
                int32_t other = __shfl_up_sync(ALL_LANES, upto, by);
                if (lane >= by) upto += other;
            }
            s_base[i] = lower + upto - here;
            lower += __shfl_sync(ALL_LANES, upto, 31);
        }
    }
    __syncthreads();  // s_base holds the rows of lower bins
    bases(s_base);
#pragma unroll
    for (int i = 0; i < EACH; i++) mine[i] = s_base[i * 32 + lane] + s_mine[i * 32];
    each_row([&](int32_t row, int bin, const Votes<BITS>& votes) {
        int32_t place = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int32_t next = __shfl_sync(ALL_LANES, mine[i], bin % 32);
            place = bin / 32 == i ? next : place;
        }
        unsigned before = votes.template like<0, BITS>(bin, votes.live) & ((1u << lane) - 1);
        if (votes.live >> lane & 1) put(row, place + __popc(before));
    });
    __syncthreads();  // all rows are put
}
