// linear_logprob_spans_sm90   logits of a span and its softmax sums at once, on Hopper's copy engine and wgmma
//
// The twin of gemm_nt into f32 and linear_logprob_spans after it, for vocabularies of several spans: logits exist in
// registers alone. A block walks the tiles of its span; a tile's 256 columns are a piece of the span, so that its sums need
// no other tile's.
//
// Shapes          x [R, C]   w [V, C], both bf16, by tensor maps   target [R] i32   work f32: from part_at on part
//                 [R, n_spans, 3], max, sum, dot of each span; from hit_at on z_target [R]
// Numerics        wgmma m64n256k16 into f32 over C in ascending order; sums in f32, scaled by 1 / temperature.
// Parallel        a block 128 rows and a span of 2048, 384 threads, two blocks a cluster: common/gemm_sm90.cuh. Four threads have
//                 a row of the accumulators, each four of the sixteen lanes of its sums: nothing passes through memory.
// Cost            2RCV + ~25 RV FLOP; reads 2(R + V)C bytes at least, writes 12 bytes a span. The sums are not hidden
//                 behind the product: about 6400 of 32768 cycles of a tile at C = 2048, by count of instructions.
// Determinism     one order of every sum; a row's bits depend on that row alone; on the emulator those of the twin.
// Requires        C % 8 == 0, C > 0, V > 2048, x and w on 16 bytes; sm_90a.
// Sass            sm90: HGMMA.64x256x16.F32.BF16 UTMALDG.2D.MULTICAST SYNCS.PHASECHK USETMAXREG
// Source          Milakov and Gimelshein 2018, arXiv:1805.02867 (sums under a running maximum), by pieces of spans; Wijmans
//                 et al. 2024, arXiv:2411.09009 (cross-entropy without logits in memory); common/softmax.cuh for the order.
// Oracle          src/ops/logprob/oracle.rs
#include "common/gemm_sm90.cuh"
#include "common/softmax.cuh"

#ifdef HAGGLE_SM90

// Sums of the first `width` columns of a tile for the row in half `HALF` of this thread's accumulators, which are scaled;
// every thread of a quad ends with them. The whole warp calls.
template <int HALF>
__device__ __forceinline__ SoftmaxSums tile_sums(const float (&acc)[Sm90Tile128x256::N / 8][4], int width) {
    int at = threadIdx.x % 4 * 2;
    float lane_max[2][2] = {{NEG_INF, NEG_INF}, {NEG_INF, NEG_INF}}, sum[2][2] = {}, dot[2][2] = {};
#pragma unroll
    for (int j = 0; j < Sm90Tile128x256::N / 8; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float x = acc[j][2 * HALF + e], &max = lane_max[j % 2][e];
            max = j * 8 + at + e < width && x > max ? x : max;
        }
    }
    float max = quad_max(lane_max), base = max > NEG_INF ? max : 0.0f;
#pragma unroll
    for (int j = 0; j < Sm90Tile128x256::N / 8; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float shifted = acc[j][2 * HALF + e] - base, p = exp_log_prob_f32(shifted);
            if (j * 8 + at + e < width) {
                sum[j % 2][e] += p;
                dot[j % 2][e] = fmaf(p, shifted, dot[j % 2][e]);
            }
        }
    }
    return {max, quad_sum(sum), quad_sum(dot)};
}

__device__ __forceinline__ void linear_logprob_spans_sm90(const TensorMap& x,                  // [R, C]
                                                          const TensorMap& w,                  // [V, C]
                                                          const int32_t* __restrict__ target,  // [R]
                                                          float* work,  // part [R, n_spans, 3], z_target [R]
                                                          int64_t part_at, int64_t hit_at, int64_t n_rows, int32_t vocab,
                                                          int32_t dim, float inv_temperature) {
    using T = Sm90Tile128x256;
    constexpr int PIECES = SPAN / PIECE, ROW = PIECES * 3 + 1;  // odd: lanes with a row each read from different banks
    static_assert(T::N == PIECE, "a tile's columns are a piece");
    SHARED_DYNAMIC(bf16, s_dynamic);
    __shared__ float s_part[T::M * ROW];  // [M, PIECES, 3], rows ROW apart
    RingSm90 ring = start_ring<T>(s_dynamic);
    // Rows first: blocks that run together read the same spans of w.
    int64_t down = ceil_div(n_rows, T::M * T::DOWN) * T::DOWN, i0 = blockIdx.x % down * T::M;
    int32_t n_spans = (int32_t)ceil_div(vocab, SPAN), span = (int32_t)(blockIdx.x / down);
    int64_t first = (int64_t)span * SPAN;
    int width = (int)min((int64_t)SPAN, vocab - first), pieces = (int)ceil_div(width, PIECE);
    int steps = (int)ceil_div(dim, GEMM_K);
    if (threadIdx.x >= T::MULTIPLIES) {
        setmaxnreg_dec<40>();
        if (threadIdx.x != T::MULTIPLIES) return;
        for (int piece = 0; piece < pieces; piece++) {
            copy_tile<T, false, false>(ring, x, w, i0, first + piece * PIECE, steps, piece * steps);
        }
        await_readers<T>(ring, pieces * steps);
        return;
    }
    setmaxnreg_inc<232>();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = warp * 16 + lane / 4;
    for (int piece = 0; piece < pieces; piece++) {
        float acc[T::N / 8][4] = {};
        multiply_tile<T, false, false>(ring, acc, steps, piece * steps);
#pragma unroll
        for (int j = 0; j < T::N / 8; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) acc[j][e] *= inv_temperature;
        }
        int here = width - piece * PIECE;
        SoftmaxSums sums[2] = {tile_sums<0>(acc, here), tile_sums<1>(acc, here)};
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int64_t i = i0 + row + half * 8;
            if (lane % 4 == 0) {
                float* s_to = s_part + (row + half * 8) * ROW + piece * 3;
                s_to[0] = sums[half].max;
                s_to[1] = sums[half].sum;
                s_to[2] = sums[half].dot;
            }
            int64_t hit = i < n_rows ? target[i] - first - piece * PIECE : -1;
            if (hit >= 0 && hit < min(here, PIECE) && hit % 8 / 2 == lane % 4) {
#pragma unroll
                for (int j = 0; j < T::N / 8; j++) {
                    if (j == hit / 8) work[hit_at + i] = hit % 2 ? acc[j][2 * half + 1] : acc[j][2 * half];
                }
            }
        }
        __syncwarp();  // together for the next product; at last the warp's sixteen rows of s_part are written
    }
    int64_t i = i0 + warp * 16 + lane;
    if (lane >= 16 || i >= n_rows) return;
    SoftmaxSums sums = merge_parts(s_part + (warp * 16 + lane) * ROW, pieces);
    float* to = work + part_at + (i * n_spans + span) * 3;
    to[0] = sums.max;
    to[1] = sums.sum;
    to[2] = sums.dot;
}

#endif

extern "C" __global__ void __launch_bounds__(384, 1) CLUSTER(2)
    linear_logprob_spans_sm90_bf16(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w,
                                   const int32_t* __restrict__ target, float* work, int64_t part_at, int64_t hit_at,
                                   int64_t n_rows, int32_t vocab, int32_t dim, float inv_temperature) {
#ifdef HAGGLE_SM90
    linear_logprob_spans_sm90(x, w, target, work, part_at, hit_at, n_rows, vocab, dim, inv_temperature);
#else
    __trap();  // other chips have gemm_nt_*_bf16_f32 and linear_logprob_spans
#endif
}
