// moe_sort        the rows (token, rank) in the order of their experts, those of one expert in ascending order
//
// Shapes          experts [N, A] i32, R = N A rows   order [R] i32: the row at a place   place [R] i32: its inverse
//                 offsets [E + 1] i32: the first place of each expert
// Numerics        integers.
// Parallel        one block of 32 warps, each with a stretch of the rows: every warp counts its experts by votes, counts become
//                 places, every warp puts its rows there. The sort of common/counting_sort.cuh, which a pass of embed_order is too.
// Cost            reads 8R bytes (4R of them from L2), writes 8R. Latency bound: 2R / 1024 turns of a warp.
// Sass sm_90a     sort: PREEXIT ACQBULK
// Determinism     no atomics; there is one result.
// Requires        E <= 256, R < 2^31; rows of what is no expert stand last, behind offsets[E].
// Source          counting sort; Knuth, The Art of Computer Programming 3, 5.2, algorithm D.
// Oracle          src/ops/moe/oracle.rs
#include "common/counting_sort.cuh"
#include "common/dependent.cuh"

constexpr int BINS = 288;  // whole turns of a warp: 256 experts, and what is none

extern "C" __global__ void __launch_bounds__(SORT_WARPS * 32)
    moe_sort(const int32_t* experts,       // [R]
             int32_t* __restrict__ order,          // [R]
             int32_t* __restrict__ place,          // [R]
             int32_t* __restrict__ offsets,        // [E + 1]
             int32_t n_rows, int32_t n_experts) {
    await_predecessors();
    __shared__ int32_t s_at[SORT_WARPS * BINS];
    __shared__ int32_t s_base[BINS];
    auto expert_of = [&](int64_t at, int32_t& row) {
        row = (int32_t)at;
        int32_t expert = experts[at];
        return expert < 0 || expert > n_experts ? n_experts : expert;
    };
    auto bases = [&](const int32_t* s_base) {
        if ((int32_t)threadIdx.x <= n_experts) offsets[threadIdx.x] = s_base[threadIdx.x];
    };
    counting_sort<BINS>(s_at, s_base, n_rows, expert_of, bases, [&](int32_t row, int32_t at) {
        order[at] = row;
        place[row] = at;
    });
}
