// The bf16 matrix product by Hopper's copy engine and wgmma, which gemm_*_sm90 and the head share: tiles of 128 x 256, and of
// 128 x 128 where those would leave half the card without a block; of 64 x 32, and 64 x 64 of two matrices, for tens of rows.
//
// A warpgroup multiplies 64 rows; one thread behind them copies. Tiles of A and B come by tensor maps into a ring of stages of 64
// steps; an mbarrier says when a stage is full, another when all warps that it is for have read it. Each element is accumulated
// like in common/gemm_bf16.cuh: in f32 over K in ascending order.
// Maps have boxes of 64 steps x as many lines as a tile has, 128 at most, or of 64 lines x 64 steps where the operand is stored
// K by K.
//
// What blocks read again comes from the second-level cache, and that gives each of 132 of them little more than half of what a tile
// of 128 x 256 takes at the tensor cores' rate. So blocks of a cluster bring what they share once: each asks for its part, and the
// engine writes it to the same place of all of them (multicast). A stage is then empty when the warps of all blocks have read it.
#pragma once

#include "common/cluster.cuh"
#include "common/dependent.cuh"
#include "common/gemm_bf16.cuh"

#ifdef HAGGLE_SM90

// A tile, and a cluster of DOWN x ACROSS of them: those one below another share columns, those side by side share rows.
template <int M_, int N_, int STAGES_, int DOWN_, int ACROSS_>
struct TileSm90 {
    static constexpr int M = M_, N = N_, STAGES = STAGES_, STAGE = (M + N) * GEMM_K;
    static constexpr int DOWN = DOWN_, ACROSS = ACROSS_, CLUSTER = DOWN * ACROSS;
    static constexpr int MULTIPLIES = 2 * M;  // threads; the next one copies
    // Two warpgroups that multiply take the registers of a third, of which one thread copies.
    static constexpr bool TAKES_REGISTERS = M == 128;
};

using Sm90Tile128x256 = TileSm90<128, 256, 4, 2, 1>;
using Sm90Tile128x128 = TileSm90<128, 128, 6, 2, 1>;
using Sm90Tile64x32 = TileSm90<64, 32, 8, 1, 8>;
using Sm90Tile64x64 = TileSm90<64, 64, 6, 1, 8>;

struct RingSm90 {
    bf16* s_stages;      // [STAGES]: a tile of A, a tile of B
    uint64_t* s_full;   // [STAGES]
    uint64_t* s_empty;  // [STAGES]
};

// The whole block calls. `s_dynamic`: STAGES stages, and up to a multiple of 1024 bytes.
template <class T>
__device__ __forceinline__ RingSm90 start_ring(bf16* s_dynamic) {
    __shared__ uint64_t s_full[T::STAGES];
    __shared__ uint64_t s_empty[T::STAGES];
    if (threadIdx.x == 0) {
#pragma unroll
        for (int stage = 0; stage < T::STAGES; stage++) {
            mbarrier_init(&s_full[stage], 1);
            mbarrier_init(&s_empty[stage], T::MULTIPLIES / 32 * T::CLUSTER);
        }
        fence_mbarrier_init();
    }
    barrier_cluster_relaxed();  // the mbarriers of all its blocks are there
    return {align_1024(s_dynamic), s_full, s_empty};
}

// What a block brings of an operand that SHARERS blocks of its cluster read: every SHARERS-th box from its place on, to `mask`.
template <int SHARERS>
struct Share {
    int place;
    uint16_t mask;
};

template <class T>
__device__ __forceinline__ Share<T::ACROSS> share_of_rows() {
    int rank = (int)cluster_ctarank();
    uint32_t mask = 0;
#pragma unroll
    for (int i = 0; i < T::ACROSS; i++) mask |= 1u << (rank % T::DOWN + i * T::DOWN);
    return {rank / T::DOWN, (uint16_t)mask};
}

template <class T>
__device__ __forceinline__ Share<T::DOWN> share_of_columns() {
    int rank = (int)cluster_ctarank();
    return {rank % T::DOWN, (uint16_t)(((1u << T::DOWN) - 1) << rank / T::DOWN * T::DOWN)};
}

// Starts to copy this block's share of a step of ROWS lines of an operand: [ROWS, 64], or panels [64, 64] of 64 lines when BY_K.
template <bool BY_K, int ROWS, int SHARERS>
__device__ __forceinline__ void copy_operand(bf16* s_to, const TensorMap& from, uint64_t* s_full, int64_t i0, int step,
                                             Share<SHARERS> share) {
    constexpr int EACH = BY_K ? 64 : ROWS < 128 ? ROWS : 128, BOXES = ROWS / EACH;
#pragma unroll
    for (int i = 0; i < BOXES; i++) {
        if (SHARERS > 1 && (step * BOXES + i) % SHARERS != share.place) continue;
        int32_t line = (int32_t)i0 + i * EACH, at = step * GEMM_K, x = BY_K ? line : at, y = BY_K ? at : line;
        bf16* s_part = s_to + i * EACH * GEMM_K;
        if (SHARERS > 1) {
            cp_async_bulk_tensor_2d_multicast(s_part, &from, s_full, x, y, share.mask);
        } else {
            cp_async_bulk_tensor_2d(s_part, &from, s_full, x, y);
        }
    }
}

// One thread copies what a tile's product reads: of each step rows(s_to, s_full, step) and columns(...) start the copies. It
// may end while copies are under way, the block must not: whoever multiplies waits for every stage to be full. `done`: steps the
// ring has seen before. Columns are of a weight: those of the first stages may come while launches before still make the rows.
template <class T, typename Rows, typename Columns>
__device__ __forceinline__ void copy_steps(const RingSm90& ring, int steps, int done, Rows rows, Columns columns) {
    int first = done == 0 ? min(steps, T::STAGES) : 0;
    for (int step = 0; step < first; step++) {
        mbarrier_arrive_expect_tx(&ring.s_full[step], T::STAGE * sizeof(bf16));
        columns(ring.s_stages + step * T::STAGE + T::M * GEMM_K, &ring.s_full[step], step);
    }
    await_predecessors();
    for (int step = 0; step < first; step++) rows(ring.s_stages + step * T::STAGE, &ring.s_full[step], step);
    for (int step = first; step < steps; step++) {
        int stage = (done + step) % T::STAGES, phase = (done + step) / T::STAGES % 2;
        bf16* s_a = ring.s_stages + stage * T::STAGE;
        mbarrier_wait(&ring.s_empty[stage], phase ^ 1);  // all warps have read what stood here, in all blocks
        mbarrier_arrive_expect_tx(&ring.s_full[stage], T::STAGE * sizeof(bf16));
        rows(s_a, &ring.s_full[stage], step);
        columns(s_a + T::M * GEMM_K, &ring.s_full[stage], step);
    }
}

// Of a cluster, a block stays until the others have said that they have read what the ring held last: they say it in its memory.
template <class T>
__device__ __forceinline__ void await_readers(const RingSm90& ring, int steps) {
    for (int step = T::CLUSTER == 1 ? steps : max(steps - T::STAGES, 0); step < steps; step++) {
        mbarrier_wait(&ring.s_empty[step % T::STAGES], step / T::STAGES % 2);
    }
}

template <class T, bool A_BY_K, bool B_BY_K>
__device__ __forceinline__ void copy_tile(const RingSm90& ring, const TensorMap& a, const TensorMap& b, int64_t i0,
                                          int64_t j0, int steps, int done) {
    Share<T::ACROSS> of_rows = share_of_rows<T>();
    Share<T::DOWN> of_columns = share_of_columns<T>();
    copy_steps<T>(
        ring, steps, done,
        [&](bf16* s_to, uint64_t* s_full, int step) { copy_operand<A_BY_K, T::M>(s_to, a, s_full, i0, step, of_rows); },
        [&](bf16* s_to, uint64_t* s_full, int step) { copy_operand<B_BY_K, T::N>(s_to, b, s_full, j0, step, of_columns); });
}

// The warps that multiply say that they have read a stage, in every block that brings something to it.
template <class T>
__device__ __forceinline__ void leave_stage(const RingSm90& ring, int step) {
    uint64_t* s_empty = &ring.s_empty[step % T::STAGES];
    int lane = threadIdx.x % 32;
    if (T::CLUSTER > 1) {
        if (lane < T::CLUSTER) mbarrier_arrive_cluster(s_empty, lane);
    } else {
        if (lane == 0) mbarrier_arrive(s_empty);
    }
}

// The warpgroups that multiply add a tile's product to what stands in `acc`; steps > 0.
template <class T, bool A_BY_K, bool B_BY_K>
__device__ __forceinline__ void multiply_tile(const RingSm90& ring, float (&acc)[T::N / 8][4], int steps, int done) {
    // 16 steps on: along a line, or 16 lines.
    constexpr int A_STEP = A_BY_K ? 128 : 2, B_STEP = B_BY_K ? 128 : 2;
    int warpgroup = threadIdx.x / 128;
    auto start = [&](int step) {
        int stage = (done + step) % T::STAGES, phase = (done + step) / T::STAGES % 2;
        const bf16* s_a = ring.s_stages + stage * T::STAGE;
        // 64 lines of A are 64 x 64 elements in either layout; so is a panel of 64 lines of B.
        uint64_t x = matrix_descriptor(s_a + warpgroup * 64 * GEMM_K);
        uint64_t y = matrix_descriptor(s_a + T::M * GEMM_K, B_BY_K ? 64 * GEMM_K * sizeof(bf16) : 16);
        mbarrier_wait(&ring.s_full[stage], phase);
        wgmma_fence();
#pragma unroll
        for (int q = 0; q < GEMM_K / 16; q++) wgmma_k16_bf16<T::N, A_BY_K, B_BY_K>(acc, x + A_STEP * q, y + B_STEP * q, 1);
        wgmma_commit_group();
    };
    start(0);  // outside the loop: where it begins with no step under way, ptxas runs every wgmma alone ("serialized")
    for (int step = 1; step < steps; step++) {
        start(step);
        wgmma_wait_group<1>();  // the step before is done, this one is under way while the next stage is looked at
        leave_stage<T>(ring, done + step - 1);
    }
    wgmma_wait_group<0>();
    leave_stage<T>(ring, done + steps - 1);
}

// Calls f(row, column, fragment, r) for each two of this thread's accumulators, those of the fragment in the r-th of its rows, of
// this column and the next; rows and columns count from the tile's first.
template <int FRAGS, typename F>
__device__ __forceinline__ void each_two(F f) {
    int i0 = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, j0 = threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < FRAGS; j++) {
#pragma unroll
        for (int r = 0; r < 2; r++) f(i0 + r * 8, j * 8 + j0, j, r);
    }
}

// The two sums of a fragment in the r-th of this thread's rows.
__device__ __forceinline__ Pack<float, 2> two_sums(const float (&fragment)[4], int r) {
    return {{fragment[2 * r], fragment[2 * r + 1]}};
}

// A warp hands its sixteen rows out as vectors of eight, a row's side by side: f(row of the tile, column, where the eight stand).
// value(j, r): the two that this thread has of fragment j in the r-th of its rows, as they are stored. The warp's part of s_panels:
// [16, 64].
template <int COLUMNS, typename Value, typename F>
__device__ __forceinline__ void each_eight(bf16* s_panels, Value value, F f) {
    constexpr int CHUNKS = COLUMNS < 64 ? COLUMNS / 8 : 8;
    int lane = threadIdx.x % 32, i0 = threadIdx.x / 32 * 16;
    bf16* s_panel = s_panels + i0 * 64;
#pragma unroll
    for (int first = 0; first < COLUMNS / 8; first += CHUNKS) {
#pragma unroll
        for (int j = 0; j < CHUNKS; j++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                store_pack(s_panel + swizzled<CHUNKS>(lane / 4 + r * 8, j) * 8 + lane % 4 * 2, value(first + j, r));
            }
        }
        __syncwarp();  // the panel is written
#pragma unroll
        for (int i = lane; i < 16 * CHUNKS; i += 32) {
            int row = i / CHUNKS, chunk = i % CHUNKS;
            f(i0 + row, (first + chunk) * 8, s_panel + swizzled<CHUNKS>(row, chunk) * 8);
        }
        __syncwarp();  // it is read
    }
}

// A block's tile: copy(ring, steps) by one thread, then store(acc, s_panels) by those that multiply, of the sums that begin with
// start(row of the tile, column of it), and the next column's.
template <class T, bool A_BY_K, bool B_BY_K, typename Copy, typename Start, typename Store>
__device__ __forceinline__ void gemm_sm90_sums(int64_t k, Copy copy, Start start, Store store) {
    SHARED_DYNAMIC(bf16, s_dynamic);
    __shared__ alignas(16) bf16 s_panels[T::M * 64];
    RingSm90 ring = start_ring<T>(s_dynamic);
    int steps = (int)ceil_div(k, GEMM_K);
    if (threadIdx.x >= T::MULTIPLIES) {
        if (T::TAKES_REGISTERS) setmaxnreg_dec<40>();
        if (threadIdx.x != T::MULTIPLIES) return;
        copy(ring, steps);
        await_readers<T>(ring, steps);
    } else {
        if (T::TAKES_REGISTERS) setmaxnreg_inc<232>();
        await_predecessors();
        float acc[T::N / 8][4];
        each_two<T::N / 8>([&](int i, int j, int fragment, int r) {
            Pack<float, 2> x = start(i, j);
            acc[fragment][2 * r] = x.v[0], acc[fragment][2 * r + 1] = x.v[1];
        });
        multiply_tile<T, A_BY_K, B_BY_K>(ring, acc, steps, 0);
        store(acc, s_panels);
    }
}

template <class T, bool A_BY_K, bool B_BY_K, typename C>
__device__ __forceinline__ void gemm_sm90(const TensorMap& a,  // [M, K], or [K, M] when A_BY_K
                                          const TensorMap& b,  // [N, K], or [K, N] when B_BY_K
                                          C* c,                // [M, N], = or +=
                                          int64_t m, int64_t n, int64_t k, int32_t add) {
    int64_t i0, j0;
    tile_of_block<T>(m, n, i0, j0);
    gemm_sm90_sums<T, A_BY_K, B_BY_K>(
        k, [&](const RingSm90& ring, int steps) { copy_tile<T, A_BY_K, B_BY_K>(ring, a, b, i0, j0, steps, 0); },
        [&](int i, int j) {
            if (!add || i0 + i >= m) return Pack<float, 2>{};
            Pack<C, 2> x = load_live<2>(c + (i0 + i) * n + j0 + j, n - j0 - j);
            return Pack<float, 2>{{to_f32(x.v[0]), to_f32(x.v[1])}};
        },
        [&](float (&acc)[T::N / 8][4], bf16* s_panels) {
            if constexpr (sizeof(C) == sizeof(bf16)) {
                each_eight<T::N>(
                    s_panels, [&](int j, int r) { return rounded<C>(two_sums(acc[j], r)); },
                    [&](int i, int j, const C* s_eight) {
                        if (i0 + i < m) store_16_live(c + (i0 + i) * n + j0 + j, n - j0 - j, s_eight);
                    });
            } else {
                each_two<T::N / 8>([&](int i, int j, int fragment, int r) {
                    if (i0 + i < m) store_live(c + (i0 + i) * n + j0 + j, n - j0 - j, two_sums(acc[fragment], r));
                });
            }
        });
}

#endif
