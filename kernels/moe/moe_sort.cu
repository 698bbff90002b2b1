// moe_sort        the rows (token, rank) in the order of their experts, those of one expert in ascending order
//
// Shapes          experts [N, A] i32, R = N A rows   order [R] i32: the row at a place   place [R] i32: its inverse
//                 offsets [E + 1] i32: the first place of each expert
// Numerics        integers.
// Parallel        one block of 32 warps, each with a stretch of the rows: every warp counts its experts, counts become places,
//                 every warp puts its rows there. One pass of embed_order's sort.
// Cost            reads 8R bytes (4R of them from L2), writes 8R. Latency bound: 2R / 1024 turns of a warp.
// Determinism     no atomics; there is one result.
// Requires        E <= 256, R < 2^31; rows of what is no expert stand last, behind offsets[E].
// Source          counting sort; Knuth, The Art of Computer Programming 3, 5.2, algorithm D.
// Oracle          src/ops/moe/oracle.rs
#include "common/math.cuh"

constexpr int WARPS = 32;
constexpr int BINS = 288;  // whole turns of a warp: 256 experts, and what is none
constexpr int EACH = BINS / 32;
constexpr unsigned ALL = 0xffffffffu;

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    moe_sort(const int32_t* __restrict__ experts,  // [R]
             int32_t* __restrict__ order,          // [R]
             int32_t* __restrict__ place,          // [R]
             int32_t* __restrict__ offsets,        // [E + 1]
             int32_t n_rows, int32_t n_experts) {
    __shared__ int32_t s_at[WARPS * BINS];  // [WARPS, BINS]: rows before a warp's next one, of its expert
    __shared__ int32_t s_base[BINS];        // rows of lower experts
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int32_t* s_mine = s_at + warp * BINS;
    // Whole turns of a warp.
    int64_t each = ceil_div(n_rows, WARPS * 32) * 32, from = warp * each, to = min(from + each, (int64_t)n_rows);
    // Calls f(row, its bin, lanes of this turn with that bin) for the warp's rows, in order; BINS for no row.
    auto each_row = [&](auto f) {
        for (int64_t turn = from; turn < to; turn += 32) {
            int64_t row = turn + lane;
            int32_t expert = row < to ? experts[row] : 0;
            int bin = row >= to ? BINS : expert < 0 || expert > n_experts ? n_experts : expert;
            f((int32_t)row, bin, __match_any_sync(ALL, bin));
        }
    };
    for (int i = lane; i < BINS; i += 32) s_mine[i] = 0;
    __syncwarp();
    each_row([&](int32_t, int bin, unsigned same) {
        if (bin < BINS && lane == __ffs(same) - 1) s_mine[bin] += __popc(same);
        __syncwarp();
    });
    __syncthreads();  // s_at holds each warp's count of each expert
    if (threadIdx.x < BINS) {
        int32_t total = 0;
        for (int w = 0; w < WARPS; w++) {
            int32_t here = s_at[w * BINS + threadIdx.x];
            s_at[w * BINS + threadIdx.x] = total;
            total += here;
        }
        s_base[threadIdx.x] = total;
    }
    __syncthreads();  // s_at holds the rows of an expert in warps before, s_base how many there are
    if (warp == 0) {
        int32_t sum = 0, total[EACH];
        for (int i = 0; i < EACH; i++) sum += total[i] = s_base[lane * EACH + i];
        int32_t base = sum;
        for (int by = 1; by < 32; by *= 2) {
            int32_t other = __shfl_up_sync(ALL, base, by);
            if (lane >= by) base += other;
        }
        base -= sum;
        for (int i = 0; i < EACH; i++) {
            s_base[lane * EACH + i] = base;
            base += total[i];
        }
    }
    __syncthreads();  // s_base holds the rows of lower experts
    if ((int32_t)threadIdx.x <= n_experts) offsets[threadIdx.x] = s_base[threadIdx.x];
    each_row([&](int32_t row, int bin, unsigned same) {
        bool live = bin < BINS;
        int32_t at = live ? s_base[bin] + s_mine[bin] + __popc(same & ((1u << lane) - 1)) : 0;
        if (live) {
            order[at] = row;
            place[row] = at;
        }
        __syncwarp();  // s_mine is read
        if (live && lane == __ffs(same) - 1) s_mine[bin] += __popc(same);
        __syncwarp();
    });
}
