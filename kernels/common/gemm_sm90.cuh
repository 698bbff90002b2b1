// The bf16 matrix product by Hopper's copy engine and wgmma, which gemm_*_sm90 and the head share: tiles of 128 x 256, and of
// 128 x 128 where those would leave half the card without a block.
//
// A block of 384 threads: two warpgroups multiply 64 rows each, a third has one thread that copies. Tiles of A and B come
// by tensor maps into a ring of stages of 64 steps; an mbarrier says when a stage is full, another when all eight warps have
// read it. Each element is accumulated like in common/gemm_bf16.cuh: in f32 over K in ascending order.
// Maps have boxes of 64 steps x 128 lines, or of 64 lines x 64 steps where the operand is stored K by K.
#pragma once

#include "common/dependent.cuh"
#include "common/gemm_bf16.cuh"
#include "common/ptx_sm90.cuh"

#ifdef HAGGLE_SM90

template <int N_, int STAGES_>
struct TileSm90 {
    static constexpr int M = 128, N = N_, STAGES = STAGES_, STAGE = (M + N) * GEMM_K;
    static constexpr int COPIES = 256;  // the thread that copies
};

using Sm90Tile128x256 = TileSm90<256, 4>;
using Sm90Tile128x128 = TileSm90<128, 6>;

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
            mbarrier_init(&s_empty[stage], 8);
        }
        fence_mbarrier_init();
    }
    __syncthreads();  // the mbarriers are there
    return {align_1024(s_dynamic), s_full, s_empty};
}

// Starts to copy 64 steps of ROWS lines of an operand: [ROWS, 64], or panels [64, 64] of 64 lines when BY_K.
template <bool BY_K, int ROWS>
__device__ __forceinline__ void copy_operand(bf16* s_to, const TensorMap& from, uint64_t* s_full, int32_t i0, int32_t q0) {
    constexpr int EACH = BY_K ? 64 : 128;
#pragma unroll
    for (int i = 0; i < ROWS; i += EACH) {
        bf16* s_part = s_to + i * GEMM_K;
        if (BY_K) {
            cp_async_bulk_tensor_2d(s_part, &from, s_full, i0 + i, q0);
        } else {
            cp_async_bulk_tensor_2d(s_part, &from, s_full, q0, i0 + i);
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
        mbarrier_wait(&ring.s_empty[stage], phase ^ 1);  // all eight warps have read what stood here
        mbarrier_arrive_expect_tx(&ring.s_full[stage], T::STAGE * sizeof(bf16));
        rows(s_a, &ring.s_full[stage], step);
        columns(s_a + T::M * GEMM_K, &ring.s_full[stage], step);
    }
}

template <class T, bool A_BY_K, bool B_BY_K>
__device__ __forceinline__ void copy_tile(const RingSm90& ring, const TensorMap& a, const TensorMap& b, int64_t i0,
                                          int64_t j0, int steps, int done) {
    copy_steps<T>(
        ring, steps, done,
        [&](bf16* s_to, uint64_t* s_full, int step) {
            copy_operand<A_BY_K, T::M>(s_to, a, s_full, (int32_t)i0, step * GEMM_K);
        },
        [&](bf16* s_to, uint64_t* s_full, int step) {
            copy_operand<B_BY_K, T::N>(s_to, b, s_full, (int32_t)j0, step * GEMM_K);
        });
}

// The first two warpgroups add a tile's product to what stands in `acc`; steps > 0.
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
        if (threadIdx.x % 32 == 0) mbarrier_arrive(&ring.s_empty[(done + step - 1) % T::STAGES]);
    }
    wgmma_wait_group<0>();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(&ring.s_empty[(done + steps - 1) % T::STAGES]);
}

// Calls f(row, column, x) for each of this thread's accumulators; rows and columns count from the tile's first.
template <int FRAGS, typename F>
__device__ __forceinline__ void each_sum(float (&acc)[FRAGS][4], F f) {
    int i0 = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, j0 = threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < FRAGS; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) f(i0 + e / 2 * 8, j * 8 + j0 + e % 2, acc[j][e]);
    }
}

// Calls f(row, column, sums of it and of the next).
template <int FRAGS, typename F>
__device__ __forceinline__ void each_two_sums(const float (&acc)[FRAGS][4], F f) {
    int i0 = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, j0 = threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < FRAGS; j++) {
#pragma unroll
        for (int r = 0; r < 2; r++) f(i0 + r * 8, j * 8 + j0, Pack<float, 2>{{acc[j][2 * r], acc[j][2 * r + 1]}});
    }
}

// A block's tile: copy(ring, steps) by one thread, then store(acc) by those that multiply, of the sums from start(row of the
// tile, column of it) on.
template <class T, bool A_BY_K, bool B_BY_K, typename Copy, typename Start, typename Store>
__device__ __forceinline__ void gemm_sm90_sums(int64_t k, Copy copy, Start start, Store store) {
    SHARED_DYNAMIC(bf16, s_dynamic);
    RingSm90 ring = start_ring<T>(s_dynamic);
    int steps = (int)ceil_div(k, GEMM_K);
    if (threadIdx.x >= T::COPIES) {
        setmaxnreg_dec<40>();
        if (threadIdx.x == T::COPIES) copy(ring, steps);
    } else {
        setmaxnreg_inc<232>();
        await_predecessors();
        float acc[T::N / 8][4];
        each_sum(acc, [&](int i, int j, float& x) { x = start(i, j); });
        multiply_tile<T, A_BY_K, B_BY_K>(ring, acc, steps, 0);
        store(acc);
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
        [&](int i, int j) { return add && i0 + i < m && j0 + j < n ? to_f32(c[(i0 + i) * n + j0 + j]) : 0.0f; },
        [&](float (&acc)[T::N / 8][4]) {
            each_sum(acc, [&](int i, int j, float& x) {
                if (i0 + i < m && j0 + j < n) c[(i0 + i) * n + j0 + j] = from_f32<C>(x);
            });
        });
}

#endif
