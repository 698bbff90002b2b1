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
#include "common/math.cuh"

constexpr int WARPS = 32;
constexpr int DIGITS = 256;
constexpr unsigned ALL = 0xffffffffu;

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    embed_order(const int32_t* __restrict__ ids,  // [N]
                int32_t* order,                   // [2, N]
                int32_t n_rows, int32_t vocab) {
    __shared__ int32_t s_at[WARPS * DIGITS];  // [WARPS, DIGITS]: rows before a warp's next one, of its digit
    __shared__ int32_t s_base[DIGITS];        // rows of smaller digits
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int32_t* s_mine = s_at + warp * DIGITS;
    // Whole turns of a warp.
    int64_t each = ceil_div(n_rows, WARPS * 32) * 32, from = warp * each, to = min(from + each, (int64_t)n_rows);
    int pass = 0;
    for (int shift = 0; shift == 0 || (shift < 32 && vocab >> shift > 0); shift += 8, pass++) {
        const int32_t* before = order + (int64_t)((pass + 1) % 2) * n_rows;
        int32_t* after = order + (int64_t)(pass % 2) * n_rows;
        // Calls f(row, its digit, lanes of this turn with that digit) for the warp's rows, in order.
        auto each_row = [&](auto f) {
            for (int64_t turn = from; turn < to; turn += 32) {
                int64_t at = turn + lane;
                int32_t row = at >= to ? 0 : pass == 0 ? (int32_t)at : before[at];
                int32_t id = ids[row];
                int digit = at >= to ? DIGITS : (id < 0 || id >= vocab ? vocab : id) >> shift & (DIGITS - 1);
                f(row, digit, __match_any_sync(ALL, digit));
            }
        };
        for (int i = lane; i < DIGITS; i += 32) s_mine[i] = 0;
        __syncwarp();
        each_row([&](int32_t, int digit, unsigned same) {
            if (digit < DIGITS && lane == __ffs(same) - 1) s_mine[digit] += __popc(same);
            __syncwarp();
        });
        __syncthreads();  // s_at holds each warp's count of each digit
        if (threadIdx.x < DIGITS) {
            int32_t total = 0;
            for (int w = 0; w < WARPS; w++) {
                int32_t here = s_at[w * DIGITS + threadIdx.x];
                s_at[w * DIGITS + threadIdx.x] = total;
                total += here;
            }
            s_base[threadIdx.x] = total;
        }
        __syncthreads();  // s_at holds the rows of a digit in warps before, s_base how many there are
        if (warp == 0) {
            int32_t sum = 0, total[DIGITS / 32];
            for (int i = 0; i < DIGITS / 32; i++) sum += total[i] = s_base[lane * (DIGITS / 32) + i];
            int32_t base = sum;
            for (int by = 1; by < 32; by *= 2) {
                int32_t other = __shfl_up_sync(ALL, base, by);
                if (lane >= by) base += other;
            }
            base -= sum;
            for (int i = 0; i < DIGITS / 32; i++) {
                s_base[lane * (DIGITS / 32) + i] = base;
                base += total[i];
            }
        }
        __syncthreads();  // s_base holds the rows of smaller digits
        each_row([&](int32_t row, int digit, unsigned same) {
            bool live = digit < DIGITS;
            int32_t place = live ? s_base[digit] + s_mine[digit] + __popc(same & ((1u << lane) - 1)) : 0;
            if (live) after[place] = row;
            __syncwarp();  // s_mine is read
            if (live && lane == __ffs(same) - 1) s_mine[digit] += __popc(same);
            __syncwarp();
        });
        __syncthreads();  // `after` is whole, s_at and s_base are read
    }
}
