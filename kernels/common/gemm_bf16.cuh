// The bf16 matrix product on tensor cores that gemm_nt, _nn, _tn and the grouped ones share: c [M, N] = a b or c += a b.
//
// Each element is accumulated in f32 by one chain of mma.sync m16n8k16 over K in ascending order, from zero or from
// what stands in C, and rounded once, at the store: the same instructions in the same order for every M, N and tile.
// Tiles of A and B come by cp.async into a ring of STAGES slots in shared memory, swizzled (common/mma.cuh). Few rows are
// bound by how many bytes are on their way: their tiles have few columns and many slots, so that many blocks each wait for
// much. Which tile a product gets: src/ops/gemm/tiles.rs.
//
// A tile's rows come through the ring, or stand in shared memory all the time (common/gemm_normed.cuh); its columns are those
// of one matrix, or half of them each of two matrices of one shape, column by column the same (common/gemm_pair.cuh). What a
// sum begins with and where it goes says the kernel. In a launch that begins early (common/dependent.cuh) columns are asked for
// before the rows are there.
#pragma once

#include "common/dependent.cuh"
#include "common/math.cuh"
#include "common/mma.cuh"
#include "common/shared.cuh"

constexpr int GEMM_K = 64;              // of a slot
constexpr int GEMM_EARLY = 48 * 1024;  // bytes of its columns that a block of a launch which begins early asks L2 for

// A tile's rows (M or N), columns, warps down and across that multiply, slots of the ring. Two warps copy at least.
template <int M_, int N_, int WARPS_M_, int WARPS_N_, int STAGES_>
struct GemmTile {
    static constexpr int M = M_, N = N_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, STAGES = STAGES_;
    static constexpr int DOWN = 1, ACROSS = 1;  // tiles of a cluster: see common/gemm_sm90.cuh
    static constexpr int MULTIPLIES = 32 * WARPS_M * WARPS_N, THREADS = MULTIPLIES < 64 ? 64 : MULTIPLIES;
    static constexpr int FRAGS_M = M / WARPS_M / 16, FRAGS_N = N / WARPS_N / 8;
    static constexpr int SLOT = (M + N) * GEMM_K;  // elements
    // Times 16 steps whose fragments are loaded at once: all, where they are few. Then nothing but the sums' own chain stands
    // between one product and the next.
    static constexpr int AHEAD = FRAGS_M * FRAGS_N <= 2 ? GEMM_K / 16 : 1;
    static constexpr int PAIR = FRAGS_N == 1 ? 1 : 2;  // fragments of B that an ldmatrix loads
    static_assert(FRAGS_M * WARPS_M * 16 == M && FRAGS_N * WARPS_N * 8 == N, "warps share the tile evenly");
    static_assert(FRAGS_N == 1 || FRAGS_N % 2 == 0, "an ldmatrix loads B for 8 columns, or for 16");
};

using Gemm128x128 = GemmTile<128, 128, 2, 4, 3>;  // training: two blocks a multiprocessor, with 128 registers a thread
using Gemm64x64 = GemmTile<64, 64, 2, 2, 4>;      // prefill
using Gemm64x32 = GemmTile<64, 32, 2, 2, 6>;      // decode of tens of rows
using Gemm16x32 = GemmTile<16, 32, 1, 4, 12>;     // decode: a warp has 8 columns, 44 KB of B are on their way
using Gemm16x8 = GemmTile<16, 8, 1, 1, 24>;       // decode of weights of few rows: 23 KB of B are on their way
using Gemm16x64 = GemmTile<16, 64, 1, 4, 6>;      // decode of two matrices: a warp has 8 columns of each, 40 KB are on their way
using Gemm16x16 = GemmTile<16, 16, 1, 1, 12>;     // the same of few rows: 22 KB of B are on their way

// An operand's tile of ROWS x GEMM_K, stored like the operand: [ROWS, GEMM_K], or [GEMM_K, ROWS] when BY_K.
template <bool BY_K, int ROWS>
struct OperandTile {
    static constexpr int LINES = BY_K ? GEMM_K : ROWS, CHUNKS = (BY_K ? ROWS : GEMM_K) / 8;

    // What one of THREADS threads copies of rows i0.., step by step: chunks that stand APART lines apart. Lines of the operand
    // start on 16 bytes and are whole chunks; what lies outside it is 0.
    template <int THREADS>
    struct Copies {
        static constexpr int APART = THREADS / CHUNKS, EACH = LINES / APART;
        static_assert(APART * CHUNKS == THREADS && EACH * APART == LINES, "threads share a tile evenly");
        const bf16* from;       // the first chunk of the next step
        int64_t apart, onward;  // elements to the next chunk, to the next step
        int steps, rows;        // of the operand, from the first chunk's on

        __device__ __forceinline__ Copies(const bf16* operand, int64_t i0, int64_t n, int64_t k) {
            int line = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
            int64_t row = i0 + (BY_K ? chunk * 8 : line), step = BY_K ? line : chunk * 8, width = BY_K ? n : k;
            from = operand + (BY_K ? step * width + row : row * width + step);
            apart = APART * width, onward = BY_K ? GEMM_K * width : GEMM_K;
            steps = (int)(k - step), rows = (int)min(n - row, (int64_t)ROWS);
        }

        __device__ __forceinline__ void start(bf16* s_slot) {
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                int line = threadIdx.x / CHUNKS + e * APART, chunk = threadIdx.x % CHUNKS;
                bool in = BY_K ? rows > 0 && steps > e * APART : rows > e * APART && steps > 0;
                cp_async_16(s_slot + swizzled<CHUNKS>(line, chunk) * 8, from + e * apart, in ? 16 : 0);
            }
            from += onward, steps -= GEMM_K;
        }
    };

    // Asks L2 for the beginnings of rows i0.. of an operand [N, K], of `bytes` at most each: a thread has a row.
    template <int THREADS>
    __device__ __forceinline__ static void prefetch(const bf16* operand, int64_t i0, int64_t n, int64_t k, int bytes) {
        static_assert(!BY_K, "a row's steps lie side by side");
        for (int row = threadIdx.x; row < ROWS; row += THREADS) {
            if (i0 + row < n) cp_async_bulk_prefetch_L2(operand + (i0 + row) * k, (uint32_t)min(k * 2, (int64_t)bytes));
        }
    }

    // The same at once for lines that are no vectors: step q0.
    template <int THREADS>
    __device__ __forceinline__ static void load(bf16* s_to, const bf16* from, int64_t i0, int64_t n,
                                                int64_t q0, int64_t k) {
        int64_t line0 = BY_K ? q0 : i0, lines = BY_K ? k : n, at0 = BY_K ? i0 : q0, width = BY_K ? n : k;
#pragma unroll 1
        for (int i = threadIdx.x; i < LINES * CHUNKS * 8; i += THREADS) {
            int line = i / (CHUNKS * 8), x = i % (CHUNKS * 8);
            int64_t row = line0 + line, at = at0 + x;
            bf16 zero = from_f32<bf16>(0.0f);
            s_to[swizzled<CHUNKS>(line, x / 8) * 8 + x % 8] = row < lines && at < width ? from[row * width + at] : zero;
        }
    }

    // Elements from the tile's first to the line that this lane names in an ldmatrix of step 0: of A's fragment (16 x 16) of
    // rows i0.., of B's (16 x 8) of columns i0.. and, where there are two, i0 + second...
    __device__ __forceinline__ static int a_at(int i0) {
        int lane = threadIdx.x % 32;
        return 8 * (BY_K ? swizzled<CHUNKS>(lane / 16 * 8 + lane % 8, i0 / 8 + lane / 8 % 2)
                         : swizzled<CHUNKS>(i0 + lane % 16, lane / 16));
    }
    __device__ __forceinline__ static int b_at(int i0, int second = 8) {
        int lane = threadIdx.x % 32;
        return 8 * (BY_K ? swizzled<CHUNKS>(lane % 16, i0 / 8 + lane / 16)
                         : swizzled<CHUNKS>(i0 + lane / 16 * second + lane % 8, lane / 8 % 2));
    }
    // The same of step q, a multiple of 16: 16 lines on, or two chunks, which swizzling keeps apart by their own bits.
    __device__ __forceinline__ static int onward(int at, int q) { return BY_K ? at + q * CHUNKS * 8 : at ^ q; }

    __device__ __forceinline__ static void load_a(uint32_t (&x)[4], const bf16* s_line) {
        if constexpr (BY_K) {
            ldmatrix_x4_trans(x, s_line);
        } else {
            ldmatrix_x4(x, s_line);
        }
    }
    // One fragment of 8 columns, or two.
    __device__ __forceinline__ static void load_b(uint32_t (&x)[1][2], const bf16* s_line) {
        if constexpr (BY_K) {
            ldmatrix_x2_trans(x[0], s_line);
        } else {
            ldmatrix_x2(x[0], s_line);
        }
    }
    __device__ __forceinline__ static void load_b(uint32_t (&x)[2][2], const bf16* s_line) {
        uint32_t y[4];
        load_a(y, s_line);
        x[0][0] = y[0], x[0][1] = y[1], x[1][0] = y[2], x[1][1] = y[3];
    }
};

// First row and column of this block's tile: eight tiles down, then the next column, so that a wave of blocks reads
// few rows of A and few columns of B. The blocks of a cluster have tiles side by side, first down, then across; some of them
// perhaps outside of C.
template <class Tile>
__device__ __forceinline__ void tile_of_block(int64_t m, int64_t n, int64_t& i0, int64_t& j0) {
    constexpr int DOWN = Tile::DOWN, ACROSS = Tile::ACROSS, GROUP = 8 / DOWN;
    int64_t down = ceil_div(m, Tile::M * DOWN), across = ceil_div(n, Tile::N * ACROSS);
    int64_t cluster = blockIdx.x / (DOWN * ACROSS);
    int rank = blockIdx.x % (DOWN * ACROSS);
    int64_t first = cluster / (GROUP * across) * GROUP, rows = min((int64_t)GROUP, down - first), at = cluster % (GROUP * across);
    i0 = ((first + at % rows) * DOWN + rank % DOWN) * Tile::M;
    j0 = (at / rows * ACROSS + rank / DOWN) * Tile::N;
}

// Calls f(row of the block's tile, column, value) for this lane's elements.
template <class Tile, class F>
__device__ __forceinline__ void each_element(float (&acc)[Tile::FRAGS_M][Tile::FRAGS_N][4], F f) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int i0 = warp / Tile::WARPS_N * Tile::FRAGS_M * 16 + lane / 4;
    int j0 = warp % Tile::WARPS_N * Tile::FRAGS_N * 8 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < Tile::FRAGS_M; i++) {
#pragma unroll
        for (int j = 0; j < Tile::FRAGS_N; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) f(i0 + i * 16 + e / 2 * 8, j0 + j * 8 + e % 2, acc[i][j][e]);
        }
    }
}

// Calls f(row of the block's tile, column, sums of it and of the next) for this lane's elements.
template <class Tile, class F>
__device__ __forceinline__ void each_two(const float (&acc)[Tile::FRAGS_M][Tile::FRAGS_N][4], F f) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int i0 = warp / Tile::WARPS_N * Tile::FRAGS_M * 16 + lane / 4;
    int j0 = warp % Tile::WARPS_N * Tile::FRAGS_N * 8 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < Tile::FRAGS_M; i++) {
#pragma unroll
        for (int j = 0; j < Tile::FRAGS_N; j++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                f(i0 + i * 16 + r * 8, j0 + j * 8, Pack<float, 2>{{acc[i][j][2 * r], acc[i][j][2 * r + 1]}});
            }
        }
    }
}

// Rows of A that come through the ring, step by step.
template <class Tile, bool BY_K>
struct RingRows {
    using Operand = OperandTile<BY_K, Tile::M>;
    static constexpr int SLOT = Tile::M * GEMM_K;  // elements of a slot of the ring
    typename Operand::template Copies<Tile::THREADS> copies;
    const bf16* a;
    int64_t i0, m, k;

    __device__ __forceinline__ RingRows(const bf16* a, int64_t i0, int64_t m, int64_t k)
        : copies(a, i0, m, k), a(a), i0(i0), m(m), k(k) {}
    __device__ __forceinline__ void start(bf16* s_slot) { copies.start(s_slot); }
    __device__ __forceinline__ void load(bf16* s_slot, int step) {
        Operand::template load<Tile::THREADS>(s_slot, a, i0, m, (int64_t)step * GEMM_K, k);
    }
    __device__ __forceinline__ void prepare() {}
    // Where this lane's lines of the fragment of rows i.. stand, from the step's first element on.
    __device__ __forceinline__ int at(int i) const { return Operand::a_at(i); }
    __device__ __forceinline__ const bf16* of_step(const bf16* s_slot, int) const { return s_slot; }
};

// Columns of one matrix.
template <class Tile, bool BY_K>
struct RingColumns {
    using Operand = OperandTile<BY_K, Tile::N>;
    typename Operand::template Copies<Tile::THREADS> copies;
    const bf16* __restrict__ b;
    int64_t j0, n, k;

    __device__ __forceinline__ RingColumns(const bf16* __restrict__ b, int64_t j0, int64_t n, int64_t k)
        : copies(b, j0, n, k), b(b), j0(j0), n(n), k(k) {}
    __device__ __forceinline__ void start(bf16* s_slot) { copies.start(s_slot); }
    __device__ __forceinline__ void prefetch() const {
        if constexpr (!BY_K) Operand::template prefetch<Tile::THREADS>(b, j0, n, k, GEMM_EARLY / Tile::N);
    }
    __device__ __forceinline__ void load(bf16* s_slot, int step) {
        Operand::template load<Tile::THREADS>(s_slot, b, j0, n, (int64_t)step * GEMM_K, k);
    }
    // Where this lane's lines of the warp's fragments 2 j and 2 j + 1 stand; wj: the warp's first column.
    __device__ __forceinline__ static int at(int wj, int j) { return Operand::b_at(wj + j * 16); }
};

// Where this lane's lines of its warp's fragments stand in a slot: of rows i.. of the tile at row(i), of columns as Columns has them.
template <class Tile, class Columns, class Row>
__device__ __forceinline__ void place_fragments(int (&a_at)[Tile::FRAGS_M], int (&b_at)[Tile::FRAGS_N / Tile::PAIR], Row row) {
    int warp = threadIdx.x / 32;
    int wi = warp / Tile::WARPS_N * Tile::FRAGS_M * 16, wj = warp % Tile::WARPS_N * Tile::FRAGS_N * 8;
#pragma unroll
    for (int i = 0; i < Tile::FRAGS_M; i++) a_at[i] = row(wi + i * 16);
#pragma unroll
    for (int j = 0; j < Tile::FRAGS_N / Tile::PAIR; j++) b_at[j] = Columns::at(wj, j);
    if constexpr (Tile::AHEAD > 1) {  // computed here, not again in each step
#pragma unroll
        for (int i = 0; i < Tile::FRAGS_M; i++) keep(a_at[i]);
#pragma unroll
        for (int j = 0; j < Tile::FRAGS_N / Tile::PAIR; j++) keep(b_at[j]);
    }
}

// Adds the products of a slot to acc: TileA's lines from s_a on, TileB's from s_b, of which this lane names those at a_at and b_at.
// Calls begun() when the first products are under way, where all fragments are loaded at once.
template <class Tile, class TileA, class TileB, class Begun>
__device__ __forceinline__ void multiply_slot(float (&acc)[Tile::FRAGS_M][Tile::FRAGS_N][4], const bf16* s_a, const bf16* s_b,
                                              const int (&a_at)[Tile::FRAGS_M], const int (&b_at)[Tile::FRAGS_N / Tile::PAIR],
                                              Begun begun) {
#pragma unroll
    for (int q = 0; q < GEMM_K; q += 16 * Tile::AHEAD) {
        uint32_t x[Tile::AHEAD][Tile::FRAGS_M][4], y[Tile::AHEAD][Tile::FRAGS_N / Tile::PAIR][Tile::PAIR][2];
#pragma unroll
        for (int p = 0; p < Tile::AHEAD; p++) {
#pragma unroll
            for (int i = 0; i < Tile::FRAGS_M; i++) TileA::load_a(x[p][i], s_a + TileA::onward(a_at[i], q + 16 * p));
#pragma unroll
            for (int j = 0; j < Tile::FRAGS_N / Tile::PAIR; j++) {
                TileB::load_b(y[p][j], s_b + TileB::onward(b_at[j], q + 16 * p));
            }
        }
#pragma unroll
        for (int p = 0; p < Tile::AHEAD; p++) {
#pragma unroll
            for (int i = 0; i < Tile::FRAGS_M; i++) {
#pragma unroll
                for (int j = 0; j < Tile::FRAGS_N; j++) {
                    mma_m16n8k16_bf16(acc[i][j], x[p][i], y[p][j / Tile::PAIR][j % Tile::PAIR]);
                }
            }
            if (p == 0) begun();
        }
    }
}

// acc = the sums of the tile whose rows and columns `a` and `b` stage, from start(row of the tile, column of it) on. False
// for a thread that has none.
template <class Tile, class Rows, class Columns, class Start>
__device__ __forceinline__ bool gemm_bf16_sums(float (&acc)[Tile::FRAGS_M][Tile::FRAGS_N][4], Rows& a, Columns& b,
                                               bf16* s_ring, int64_t k, int32_t vectors, Start start) {
    using TileA = typename Rows::Operand;
    using TileB = typename Columns::Operand;
    constexpr int SLOT = Rows::SLOT + Tile::N * GEMM_K;
    int steps = (int)ceil_div(k, GEMM_K), asked = 0, put = 0, take = 0;  // slots: to write, to read
    auto ask = [&]() {  // for the next step
        bf16* s_slot = s_ring + put * SLOT;
        if (asked < steps && vectors) {
            a.start(s_slot);
            b.start(s_slot + Rows::SLOT);
        } else if (asked < steps) {
            a.load(s_slot, asked);
            b.load(s_slot + Rows::SLOT, asked);
        }
        asked++, put = put + 1 == Tile::STAGES ? 0 : put + 1;
        cp_async_commit();  // an empty group keeps the count
    };
    // Columns are of a weight, which may come while the launch before still makes the rows: into the ring where rows do not come
    // through it, else, as a slot's group of copies has both, to L2.
    constexpr bool RING_OF_COLUMNS = Rows::SLOT == 0;
    if (!RING_OF_COLUMNS) {
        if (vectors) b.prefetch();
        await_predecessors();
    }
#pragma unroll 1  // it is done once: unrolled, 23 copies of the code would have to be read first
    for (int i = 0; i < Tile::STAGES - 1; i++) ask();
    if (RING_OF_COLUMNS) await_predecessors();
    a.prepare();
    bool multiplies = Tile::MULTIPLIES == Tile::THREADS || threadIdx.x < Tile::MULTIPLIES;
    each_element<Tile>(acc, [&](int i, int j, float& x) { x = multiplies ? start(i, j) : 0.0f; });
    int a_at[Tile::FRAGS_M], b_at[Tile::FRAGS_N / Tile::PAIR];
    place_fragments<Tile, Columns>(a_at, b_at, [&](int i) { return a.at(i); });
    for (int step = 0; step < steps; step++) {
        cp_async_wait<Tile::STAGES - 2>();
        __syncthreads();  // this step's slot is written, the last step's is read
        const bf16* s_a = a.of_step(s_ring + take * SLOT, step);
        const bf16* s_b = s_ring + take * SLOT + Rows::SLOT;
        take = take + 1 == Tile::STAGES ? 0 : take + 1;
        if (Tile::AHEAD == 1 || !multiplies) ask();
        if (!multiplies) continue;
        multiply_slot<Tile, TileA, TileB>(acc, s_a, s_b, a_at, b_at, [&]() {
            if (Tile::AHEAD > 1) ask();  // while the first products are under way
        });
    }
    cp_async_wait<0>();  // nothing is under way when the block ends
    return multiplies;
}

// C, and the first row and column of a tile of it.
template <typename C>
struct Target {
    C* c;  // [M, N]
    int64_t m, n, i0, j0;

    // What stands in row i and column j of the tile.
    __device__ __forceinline__ float load(int i, int j) const {
        return i0 + i < m && j0 + j < n ? to_f32(c[(i0 + i) * n + j0 + j]) : 0.0f;
    }
};

// Stores this lane's elements of a tile: in f32, where one is a word, each; in bf16 by twos, unless ALONE.
template <class Tile, bool ALONE, typename C>
__device__ __forceinline__ void store_tile(float (&acc)[Tile::FRAGS_M][Tile::FRAGS_N][4], const Target<C>& to) {
    if constexpr (sizeof(C) == sizeof(float) || ALONE) {
        each_element<Tile>(acc, [&](int i, int j, float& x) {
            if (to.i0 + i < to.m && to.j0 + j < to.n) to.c[(to.i0 + i) * to.n + to.j0 + j] = from_f32<C>(x);
        });
        return;
    }
    // All twos begin on a vector's boundary, or each element goes alone.
    bool twos = to.n % 2 == 0 && reinterpret_cast<uintptr_t>(to.c) % (2 * sizeof(C)) == 0;
    each_two<Tile>(acc, [&](int i, int j, const Pack<float, 2>& x) {
        C* at = to.c + (to.i0 + i) * to.n + to.j0 + j;
        if (to.i0 + i >= to.m || to.j0 + j >= to.n) return;
        if (twos) return store_whole(at, rounded<C>(x));
        at[0] = from_f32<C>(x.v[0]);
        if (to.j0 + j + 1 < to.n) at[1] = from_f32<C>(x.v[1]);
    });
}

// The tile of rows i0.. and columns j0.. of C.
template <class Tile, bool A_BY_K, bool B_BY_K, typename C>
__device__ __forceinline__ void gemm_bf16_tile(const bf16* a,  // [M, K], or [K, M] when A_BY_K
                                               const bf16* __restrict__ b,  // [N, K], or [K, N] when B_BY_K
                                               C* c,                        // [M, N], = or +=
                                               int64_t m, int64_t n, int64_t k, int32_t add, int32_t vectors,
                                               int64_t i0, int64_t j0) {
    SHARED_DYNAMIC(bf16, s_ring);  // [STAGES]: a tile of A, a tile of B
    float acc[Tile::FRAGS_M][Tile::FRAGS_N][4];
    RingRows<Tile, A_BY_K> rows(a, i0, m, k);
    RingColumns<Tile, B_BY_K> columns(b, j0, n, k);
    Target<C> to = {c, m, n, i0, j0};
    auto begins = [&](int i, int j) { return add ? to.load(i, j) : 0.0f; };
    if (!gemm_bf16_sums<Tile>(acc, rows, columns, s_ring, k, vectors, begins)) return;
    store_tile<Tile, A_BY_K && Tile::M == 128>(acc, to);  // which has no register left for vectors
}

template <class Tile, bool A_BY_K, bool B_BY_K, typename C>
__device__ __forceinline__ void gemm_bf16(const bf16* a, const bf16* __restrict__ b, C* c, int64_t m,
                                          int64_t n, int64_t k, int32_t add, int32_t vectors) {
    int64_t i0, j0;
    tile_of_block<Tile>(m, n, i0, j0);
    gemm_bf16_tile<Tile, A_BY_K, B_BY_K>(a, b, c, m, n, k, add, vectors, i0, j0);
}
