// Attention in bf16 on tensor cores: what attn_fwd, attn_decode and their gradients share.
//
// Queries (or keys) stand in fragments of 16 rows, a warp each; lane l has the rows l / 4 and l / 4 + 8 and of every
// eight columns the columns 2 (l % 4) and 2 (l % 4) + 1. Scores are chains of mma.sync over D, outputs chains over the
// keys, in ascending order, whatever the tile: packed and paged give a row the same bits. Chunks a row does not see
// leave it as it is to the bit: their factor is 1, their addends are 0.
#pragma once

#include "common/attn.cuh"
#include "common/mma.cuh"
#include "common/reduce.cuh"

// Starts to load rows 0 .. n of a swizzled tile of n x D; rows past `rows` become 0.
template <int D>
__device__ __forceinline__ void load_tile(bf16* s_to, const bf16* __restrict__ from, int64_t from_stride, int n,
                                          int rows) {
    constexpr int CHUNKS = D / 8;
    for (int i = threadIdx.x; i < n * CHUNKS; i += blockDim.x) {
        int row = i / CHUNKS, chunk = i % CHUNKS;
        bool in = row < rows;
        cp_async_16(s_to + 8 * swizzled<CHUNKS>(row, chunk), from + (in ? row * from_stride + chunk * 8 : 0),
                    in ? 16 : 0);
    }
}

// The same for `rows` keys, or values, of the sequence of a tile, from position `chunk` on; from is row 0 of their head.
template <int D>
__device__ __forceinline__ void load_keys(bf16* s_to, const bf16* __restrict__ from, int64_t from_stride,
                                          const Tile& at, int32_t chunk, int rows) {
    constexpr int CHUNKS = D / 8;
    for (int i = threadIdx.x; i < CHUNK * CHUNKS; i += blockDim.x) {
        int row = i / CHUNKS, column = i % CHUNKS;
        bool in = row < rows;
        cp_async_16(s_to + 8 * swizzled<CHUNKS>(row, column),
                    from + (in ? at.row_of(chunk + row) * from_stride + column * 8 : 0), in ? 16 : 0);
    }
}

// s [16, 8 TILES] = rows i0.. of s_a times the rows j0.. of s_b, both tiles of rows of D.
template <int D, int TILES>
__device__ __forceinline__ void dot_rows(float (&s)[TILES][4], const bf16* s_a, int i0, const bf16* s_b, int j0) {
#pragma unroll
    for (int j = 0; j < TILES; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) s[j][e] = 0.0f;
    }
#pragma unroll
    for (int q = 0; q < D; q += 16) {
        uint32_t a[4];
        frag_a<D / 8>(a, s_a, i0, q);
#pragma unroll
        for (int j = 0; j < TILES; j += 2) {
            uint32_t b[2][2];
            frag_b<D / 8>(b, s_b, j0 + j * 8, q);
            mma_m16n8k16_bf16(s[j], a, b[0]);
            mma_m16n8k16_bf16(s[j + 1], a, b[1]);
        }
    }
}

// acc [16, 8 TILES] += p [16, 32], rounded to bf16, times columns d0.. of the 32 rows of s_b, a tile of rows of D.
template <int D, int TILES>
__device__ __forceinline__ void add_product(float (&acc)[TILES][4], const float (&p)[4][4], const bf16* s_b, int d0) {
#pragma unroll
    for (int q = 0; q < 2; q++) {
        const float(&x)[4] = p[2 * q], (&y)[4] = p[2 * q + 1];
        uint32_t a[4] = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(y[0], y[1]), pack_bf16(y[2], y[3])};
#pragma unroll
        for (int j = 0; j < TILES; j += 2) {
            uint32_t b[2][2];
            frag_b_transposed<D / 8>(b, s_b, d0 + j * 8, q * 16);
            mma_m16n8k16_bf16(acc[j], a, b[0]);
            mma_m16n8k16_bf16(acc[j + 1], a, b[1]);
        }
    }
}

// A lane's two rows: their running softmax, in powers of 2. Index 0 is row lane / 4, 1 is row lane / 4 + 8.
struct Softmax {
    float max[2];  // of scores times log2 e
    float sum[2];

    __device__ __forceinline__ void open() {
        max[0] = max[1] = NEG_INF;
        sum[0] = sum[1] = 0.0f;
    }

    // Scores of a chunk -> probabilities relative to the new maxima; `rescale` is the factor of what was summed before.
    // Row r sees the first keys[r] keys; scale > 0.
    __device__ __forceinline__ void step(float (&s)[4][4], const int (&keys)[2], float scale, float (&rescale)[2]) {
        int column = threadIdx.x % 4 * 2;
        float by = scale * LOG2_E;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = NEG_INF;
#pragma unroll
            for (int j = 0; j < 4; j++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float& x = s[j][2 * r + e];
                    x = j * 8 + column + e < keys[r] ? x : NEG_INF;
                    top = fmaxf(x, top);
                }
            }
            top = lanes_max<4>(top) * by;
            float new_max = top > max[r] ? top : max[r];
            // A row that has seen nothing yet (there are such only past a tile's end) keeps clear of inf - inf.
            float base = new_max == NEG_INF ? 0.0f : new_max;
            rescale[r] = below_max<bf16>(max[r] - base);
            float total[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
#pragma unroll
                for (int e = 0; e < 2; e++) s[j][2 * r + e] = below_max<bf16>(fmaf(s[j][2 * r + e], by, -base));
                total[j] = s[j][2 * r] + s[j][2 * r + 1];
            }
            sum[r] = sum[r] * rescale[r] + lanes_sum<4>((total[0] + total[2]) + (total[1] + total[3]));
            max[r] = new_max;
        }
    }

    // Logarithm of the sum of row r's exponentials.
    __device__ __forceinline__ float lse(int r) const { return fmaf(max[r], LN_2, log_f32(sum[r])); }
};

template <int TILES>
__device__ __forceinline__ void rescale_rows(float (&acc)[TILES][4], const float (&rescale)[2]) {
#pragma unroll
    for (int j = 0; j < TILES; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) acc[j][e] *= rescale[e / 2];
    }
}

// A lane's two rows over the segments so far.
template <int TILES>
struct Total {
    Softmax softmax;
    float acc[TILES][4];

    // Row r takes the next segment, of which it has seen a key; the first stands as it is.
    __device__ __forceinline__ void add(int r, const Softmax& part, const float (&part_acc)[TILES][4], bool first) {
        if (first) {
            softmax.max[r] = part.max[r], softmax.sum[r] = part.sum[r];
#pragma unroll
            for (int j = 0; j < TILES; j++) {
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; e++) acc[j][e] = part_acc[j][e];
            }
            return;
        }
        Merge by = merge_segment<bf16>(softmax.max[r], softmax.sum[r], part.max[r], part.sum[r]);
#pragma unroll
        for (int j = 0; j < TILES; j++) {
#pragma unroll
            for (int e = 2 * r; e < 2 * r + 2; e++) acc[j][e] = fmaf(part_acc[j][e], by.part, acc[j][e] * by.total);
        }
    }
};

// Stores row r of acc times `factor`, 8 TILES columns; `to` is this lane's first.
template <int TILES>
__device__ __forceinline__ void store_row(bf16* to, const float (&acc)[TILES][4], int r, float factor) {
#pragma unroll
    for (int j = 0; j < TILES; j++) {
        store_pack<2>(to + j * 8, Pack<bf16, 2>{{from_f32<bf16>(acc[j][2 * r] * factor),
                                                 from_f32<bf16>(acc[j][2 * r + 1] * factor)}});
    }
}

// sum += o do over eight neighbouring elements.
__device__ __forceinline__ float add_delta(float sum, const bf16* __restrict__ o, const bf16* __restrict__ d_o) {
    Pack<bf16, 8> x = load_pack<8>(o), y = load_pack<8>(d_o);
#pragma unroll
    for (int i = 0; i < 8; i++) sum = fmaf(to_f32(x.v[i]), to_f32(y.v[i]), sum);
    return sum;
}

// delta = sum_d o do of a row, by four neighbouring lanes; the whole warp calls together.
template <int D>
__device__ __forceinline__ float row_delta(const bf16* __restrict__ o, const bf16* __restrict__ d_o, bool live) {
    float sum = 0.0f;
    for (int d = threadIdx.x % 4 * 8; d < D && live; d += 32) sum = add_delta(sum, o + d, d_o + d);
    return lanes_sum<4>(sum);
}
