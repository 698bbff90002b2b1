// A stable counting sort of rows into BINS bins by one block of 32 warps: what embed_order's passes and moe_sort share.
//
// Each warp has a stretch of the rows. Every warp counts its bins, counts become places, every warp puts its rows there, in
// order. No atomics: there is one result. BINS is a multiple of 32, at most 1024.
#pragma once

#include "common/math.cuh"
#include "common/reduce.cuh"

constexpr int SORT_WARPS = 32;

// bin_of(at, row): the bin of the row that stands at `at`, and which row that is. bases(s_base): called by all threads when
// s_base [BINS] holds the rows of lower bins. put(row, place): the row's place. Afterwards s_at and s_base are read, and what
// was put can be read by the block.
template <int BINS, typename BinOf, typename Bases, typename Put>
__device__ __forceinline__ void counting_sort(int32_t* s_at,    // [SORT_WARPS, BINS] shared
                                              int32_t* s_base,  // [BINS] shared
                                              int32_t n_rows, BinOf bin_of, Bases bases, Put put) {
    static_assert(BINS % 32 == 0 && BINS <= SORT_WARPS * 32, "whole turns of a warp, a thread a bin");
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int32_t* s_mine = s_at + warp * BINS;  // rows before the warp's next one, of its bin
    // Whole turns of a warp.
    int64_t each = ceil_div(n_rows, SORT_WARPS * 32) * 32, from = warp * each, to = min(from + each, (int64_t)n_rows);
    // Calls f(row, its bin, lanes of this turn with that bin) for the warp's rows, in order; BINS for no row.
    auto each_row = [&](auto f) {
        for (int64_t turn = from; turn < to; turn += 32) {
            int64_t at = turn + lane;
            int32_t row = 0;
            int bin = at < to ? bin_of(at, row) : BINS;
            f(row, bin, __match_any_sync(ALL_LANES, bin));
        }
    };
    for (int i = lane; i < BINS; i += 32) s_mine[i] = 0;
    __syncwarp();
    each_row([&](int32_t, int bin, unsigned same) {
        if (bin < BINS && lane == __ffs(same) - 1) s_mine[bin] += __popc(same);
        __syncwarp();
    });
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
    each_row([&](int32_t row, int bin, unsigned same) {
        bool live = bin < BINS;
        if (live) put(row, s_base[bin] + s_mine[bin] + __popc(same & ((1u << lane) - 1)));
        __syncwarp();  // s_mine is read
        if (live && lane == __ffs(same) - 1) s_mine[bin] += __popc(same);
        __syncwarp();
    });
    __syncthreads();  // all rows are put
}
