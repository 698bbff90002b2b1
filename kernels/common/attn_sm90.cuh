// Attention in bf16 on Hopper: what attn_fwd, attn_bwd_dq and attn_bwd_dkv share there.
//
// A box is 64 lines of D: D / 64 panels of 64 x 64, swizzled, as the copy engine lays them from a tensor map of
// (D, heads, tokens). Two warpgroups of a block have 64 rows each, a warp 16, a lane those of attn_bf16.cuh; a third
// copies. Scores of 64 columns come from one chain of wgmma over D, but the walk goes on by chunks of 32 in the order
// of the portable kernels: the bits are theirs wherever wgmma has the bits of mma.sync.
//
// Registers are kept apart by `pin`: made before the fence of the products that read them, used after their wait. Else
// ptxas runs every product alone ("serialized"), which tools/kernel_table counts as a fault.
#pragma once

#include "common/attn_bf16.cuh"
#include "common/ptx_sm90.cuh"

#ifdef HAGGLE_SM90

constexpr int LINES = 64;                          // of a box; rows of a warpgroup
constexpr int PANEL = LINES * 64;                  // elements
constexpr int STAGES = 4;                          // stages of the ring, two boxes each
constexpr uint64_t CHUNK_STEP = CHUNK * 128 >> 4;  // from one chunk of lines to the next, in a descriptor

// Elements of a box.
template <int D>
constexpr int BOX = LINES * D;

// This thread's warpgroup, as a number the compiler knows to be the whole warp's: branches on it do not diverge.
__device__ __forceinline__ int warpgroup_of_thread() { return __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0); }

// A ring's mbarriers: a stage is full when its bytes are there, empty when `readers` warps have read it.
__device__ __forceinline__ void init_ring(uint64_t* s_full, uint64_t* s_empty, int readers) {
#pragma unroll
    for (int stage = 0; stage < STAGES; stage++) {
        mbarrier_init(&s_full[stage], 1);
        mbarrier_init(&s_empty[stage], readers);
    }
}

// Starts to load lines of a box: the map's box at token `row` of `head`.
template <int D>
__device__ __forceinline__ void load_box(bf16* s_to, const TensorMap& map, uint64_t* s_bar, int head, int32_t row) {
#pragma unroll
    for (int d = 0; d < D; d += 64) cp_async_bulk_tensor_3d(s_to + d / 64 * PANEL, &map, s_bar, d, head, row);
}

// One thread: keys and values of a sequence from token `start` on, box by box through the ring.
template <int D>
__device__ __forceinline__ void load_keys(bf16* s_ring, uint64_t* s_full, uint64_t* s_empty, const TensorMap& k,
                                          const TensorMap& v, int kv, int32_t start, int boxes) {
    for (int box = 0; box < boxes; box++) {
        int stage = box % STAGES, phase = box / STAGES % 2;
        bf16* s_k = s_ring + stage * 2 * BOX<D>;
        mbarrier_wait(&s_empty[stage], phase ^ 1);  // all warps have read what stood here
        mbarrier_arrive_expect_tx(&s_full[stage], 2 * BOX<D> * sizeof(bf16));
        load_box<D>(s_k, k, &s_full[stage], kv, start + box * LINES);
        load_box<D>(s_k + BOX<D>, v, &s_full[stage], kv, start + box * LINES);
    }
}

// Lines first .. end of a box become 0, by n threads of which this is number i: rows of another sequence came there.
// Scores of them are masked, but 0 times what they hold need not be 0. A fence and a barrier must follow.
template <int D>
__device__ __forceinline__ void clear_lines(bf16* s_box, int first, int end, int i, int n) {
    constexpr int UNITS = D / 8;  // of 16 bytes; swizzling keeps them in their line
    for (; i < (end - first) * UNITS; i += n) {
        int line = first + i / UNITS, unit = i % UNITS;
        bf16* s_at = s_box + unit / 8 * PANEL + line * 64 + unit % 8 * 8;
        store_pack<4>(reinterpret_cast<uint32_t*>(s_at), Pack<uint32_t, 4>{});
    }
}

// Keys and values from line `rows` on become 0, by the one warpgroup that reads them; s_clear takes its 128 threads.
template <int D>
__device__ __forceinline__ void clear_keys(bf16* s_k, int rows, uint64_t* s_clear) {
    clear_lines<D>(s_k, rows, LINES, threadIdx.x % 128, 128);
    clear_lines<D>(s_k + BOX<D>, rows, LINES, threadIdx.x % 128, 128);
    fence_proxy_async();
    mbarrier_arrive(s_clear);
    mbarrier_wait(s_clear, 0);  // all of the warpgroup have
}

// Columns 32 c .. 32 c + 32 of 64.
__device__ __forceinline__ float (&chunk_of(float (&s)[8][4], int c))[4][4] {
    return reinterpret_cast<float(&)[4][4]>(s[4 * c]);
}

// Tells the compiler that these registers change here: what makes or uses them must not move across a fence or wait.
template <int N>
__device__ __forceinline__ void pin(float (&x)[N][4]) {
#ifndef HAGGLE_EMU
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(x[i][0]), "+f"(x[i][1]), "+f"(x[i][2]), "+f"(x[i][3])::"memory");
#endif
}
template <int N>
__device__ __forceinline__ void pin(uint32_t (&x)[N][4]) {
#ifndef HAGGLE_EMU
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(x[i][0]), "+r"(x[i][1]), "+r"(x[i][2]), "+r"(x[i][3])::"memory");
#endif
}

// From step 0 to step i of D in the descriptor of a box: 16 columns further, or the next panel.
template <int D>
__device__ __forceinline__ constexpr uint64_t along(int i) {
    static_assert(D % 64 == 0, "whole panels");
    return i / 4 * (PANEL * 2 >> 4) + i % 4 * (16 * 2 >> 4);
}

// Starts s [64, 64] = rows of s_a times rows of s_b, two boxes.
template <int D>
__device__ __forceinline__ void dot_boxes(float (&s)[8][4], const bf16* s_a, const bf16* s_b) {
    uint64_t a = matrix_descriptor(s_a), b = matrix_descriptor(s_b);
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        wgmma_k16_bf16<64, false, false>(s, a + along<D>(i), b + along<D>(i), i > 0);
    }
}

// The descriptor of a box whose columns are multiplied, for add_chunk.
__device__ __forceinline__ uint64_t transposed_box(const bf16* s_box) { return matrix_descriptor(s_box, PANEL * 2); }

// p [64, 32], rounded to bf16, as fragments of A.
__device__ __forceinline__ void pack_chunk(uint32_t (&a)[2][4], const float (&p)[4][4]) {
#pragma unroll
    for (int q = 0; q < 2; q++) {
        const float(&x)[4] = p[2 * q], (&y)[4] = p[2 * q + 1];
        a[q][0] = pack_bf16(x[0], x[1]), a[q][1] = pack_bf16(x[2], x[3]);
        a[q][2] = pack_bf16(y[0], y[1]), a[q][3] = pack_bf16(y[2], y[3]);
    }
}

// Starts acc [64, D] += a [64, 32] times 32 lines of a transposed box.
template <int D>
__device__ __forceinline__ void add_chunk(float (&acc)[D / 8][4], const uint32_t (&a)[2][4], uint64_t lines) {
#pragma unroll
    for (int q = 0; q < 2; q++) wgmma_k16_bf16<D, true>(acc, a[q], lines + q * 128, 1);
}

#endif
