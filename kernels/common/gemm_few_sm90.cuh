// The bf16 matrix product of few rows by Hopper's copy engine: tiles of 16 rows as in common/gemm_bf16.cuh, eight of them side by
// side in a cluster, which brings their rows once.
//
// A weight is asked for by many blocks of few columns, and each would read all rows again: of 16 rows twice what it reads of 8
// columns, which the second-level cache does not give beside memory at its full rate. A wgmma has 64 rows, four times what there
// are; so warps multiply by mma.sync, from stages that tensor maps fill (common/gemm_sm90.cuh) as cp.async fills a slot.
// Each element is accumulated like there: in f32 over K in ascending order.
#pragma once

#include "common/gemm_sm90.cuh"

#ifdef HAGGLE_SM90

// The warp behind those that multiply copies.
template <class Tile>
struct FewSm90 : Tile {
    static constexpr int STAGE = Tile::SLOT, ACROSS = 8, CLUSTER = 8;
    static_assert(Tile::M == 16 && Tile::DOWN == 1, "one tile down");
};

using FewSm90Tile16x8 = FewSm90<Gemm16x8>;
using FewSm90Tile16x32 = FewSm90<Gemm16x32>;
using FewSm90Tile16x64 = FewSm90<Gemm16x64>;

// A block's tile: copy(ring, steps) by one thread; then store(acc) by the warps that multiply, of the sums that begin with
// start(row of the tile, column of it). Columns: where fragments of the tile's columns stand in a stage.
template <class T, class Columns, typename Copy, typename Start, typename Store>
__device__ __forceinline__ void gemm_few_sm90_sums(int64_t k, Copy copy, Start start, Store store) {
    using Rows = OperandTile<false, T::M>;
    SHARED_DYNAMIC(bf16, s_dynamic);
    RingSm90 ring = start_ring<T>(s_dynamic);
    int steps = (int)ceil_div(k, GEMM_K);
    if (threadIdx.x >= T::MULTIPLIES) {
        if (threadIdx.x != T::MULTIPLIES) return;
        copy(ring, steps);
        await_readers<T>(ring, steps);
        return;
    }
    await_predecessors();
    float acc[T::FRAGS_M][T::FRAGS_N][4];
    each_element<T>(acc, [&](int i, int j, float& x) { x = start(i, j); });
    int a_at[T::FRAGS_M], b_at[T::FRAGS_N / T::PAIR];
    place_fragments<T, Columns>(a_at, b_at, [](int i) { return Rows::a_at(i); });
    for (int step = 0; step < steps; step++) {
        int stage = step % T::STAGES;
        const bf16* s_a = ring.s_stages + stage * T::STAGE;
        mbarrier_wait(&ring.s_full[stage], step / T::STAGES % 2);
        multiply_slot<T, Rows, typename Columns::Operand>(acc, s_a, s_a + T::M * GEMM_K, a_at, b_at, [] {});
        leave_stage<T>(ring, step);
    }
    store(acc);
}

template <class T, typename C>
__device__ __forceinline__ void gemm_few_sm90(const TensorMap& a,  // [M, K]
                                              const TensorMap& b,  // [N, K]
                                              C* c,                // [M, N], = or +=
                                              int64_t m, int64_t n, int64_t k, int32_t add) {
    int64_t i0, j0;
    tile_of_block<T>(m, n, i0, j0);
    Target<C> to = {c, m, n, i0, j0};
    gemm_few_sm90_sums<T, RingColumns<T, false>>(
        k, [&](const RingSm90& ring, int steps) { copy_tile<T, false, false>(ring, a, b, i0, j0, steps, 0); },
        [&](int i, int j) { return add ? to.load(i, j) : 0.0f; },
        [&](float (&acc)[T::FRAGS_M][T::FRAGS_N][4]) { store_tile<T, false>(acc, to); });
}

#endif
