// embed_order     rows in the order of their ids, those of one id in ascending order: what embed_bwd walks
//
// Shapes          ids [N] i32   order [2, N] i32: the rows stand in half (passes - 1) % 2, the other is scratch
// Numerics        integers.
// Parallel        one block of 32 warps, each with a stretch of the rows. A pass sorts by eight bits of the id, lowest
//                 first: every warp counts its digits, counts become places, every warp puts its rows there. As many
//                 passes as V has bytes: three for a vocabulary of 152 thousand.
// Cost            reads 16N bytes a pass (12N of them from L2), writes 4N. Latency bound: 2N / 1024 turns of a warp a pass.
// Determinism     no atomics; equal ids keep their order, so that there is one result.
// Requires        N < 2^31; ids outside 0..V stand last, in one order.
// Source          radix sort by least significant digits; Knuth, The Art of Computer Programming 3, 5.2.5.
// Oracle          none: embed_bwd's
#include "common/counting_sort.cuh"

constexpr int DIGITS = 256;

extern "C" __global__ void __launch_bounds__(SORT_WARPS * 32)
    embed_order(const int32_t* __restrict__ ids,  // [N]
                int32_t* order,                   // [2, N]
                int32_t n_rows, int32_t vocab) {
    __shared__ int32_t s_at[SORT_WARPS * DIGITS];
    __shared__ int32_t s_base[DIGITS];
    int pass = 0;
    for (int shift = 0; shift == 0 || (shift < 32 && vocab >> shift > 0); shift += 8, pass++) {
        const int32_t* before = order + (int64_t)((pass + 1) % 2) * n_rows;
        int32_t* after = order + (int64_t)(pass % 2) * n_rows;
        auto digit_of = [&](int64_t at, int32_t& row) {
            row = pass == 0 ? (int32_t)at : before[at];
            int32_t id = ids[row];
            return (id < 0 || id >= vocab ? vocab : id) >> shift & (DIGITS - 1);
        };
        counting_sort<DIGITS>(
            s_at, s_base, n_rows, digit_of, [](const int32_t*) {}, [&](int32_t row, int32_t place) { after[place] = row; });
    }
}
