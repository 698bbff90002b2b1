// Attention in f32 on CUDA cores: one query's walk over a chunk of keys, the same in attn_fwd and attn_decode.
//
// Eight neighbouring lanes have one query. Lane l has the keys l, l + 8, l + 16, l + 24 of the chunk and the elements
// l, l + 8, ... of the output. Scores are chains over D, the sum of a chunk is the tree of chunk_sum, the output is one
// chain over the keys: the bits of the CPU device. Rows in shared memory are `stride` = D | 1 floats apart, which
// spreads them over the banks.
#pragma once

#include "common/attn.cuh"
#include "common/reduce.cuh"

constexpr int LANES = 8;  // of a query
// Between the rows of a chunk's probabilities in shared memory: the four queries of a warp write in banks of their own.
constexpr int P_STRIDE = CHUNK + LANES;

// A query's running softmax; acc[r] is element lane + 8 r of the output.
template <int ACC>
struct Walk {
    float max, sum;
    float acc[ACC];

    __device__ __forceinline__ void open() {
        max = NEG_INF;
        sum = 0.0f;
#pragma unroll
        for (int r = 0; r < ACC; r++) acc[r] = 0.0f;
    }

    // Takes the walk of the next segment; the first stands as it is.
    __device__ __forceinline__ void add(const Walk& part, bool first) {
        if (first) {
            *this = part;
            return;
        }
        Merge by = merge_segment<float>(max, sum, part.max, part.sum);
#pragma unroll
        for (int r = 0; r < ACC; r++) acc[r] = fmaf(part.acc[r], by.part, acc[r] * by.total);
    }

    // o [D] = acc / sum
    __device__ __forceinline__ void store(float* o, int dim) const {
        scaled(o, dim, 1.0f / sum);
    }

    // part [2 + D] = max, sum, acc
    __device__ __forceinline__ void store_part(float* part, int dim) const {
        if (threadIdx.x % LANES == 0) part[0] = max, part[1] = sum;
        scaled(part + 2, dim, 1.0f);
    }

    // o [D] = acc times a factor
    __device__ __forceinline__ void scaled(float* o, int dim, float factor) const {
#pragma unroll
        for (int r = 0; r < ACC; r++) {
            int d = threadIdx.x % LANES + LANES * r;
            if (d < dim) o[d] = acc[r] * factor;
        }
    }
};

// s_to [n rows], rows of `dim` floats `stride` apart, from rows `from_stride` apart; rows past `rows` become 0.
__device__ __forceinline__ void load_rows(float* s_to, int stride, const float* __restrict__ from, int64_t from_stride,
                                          int n, int rows, int dim) {
    for (int i = threadIdx.x; i < n * dim; i += blockDim.x) {
        int row = i / dim, d = i % dim;
        s_to[row * stride + d] = row < rows ? from[row * from_stride + d] : 0.0f;
    }
}

// The same for `rows` keys, or values, of the sequence of a tile, from position `chunk` on; from is row 0 of their head.
__device__ __forceinline__ void load_keys(float* s_to, int stride, const float* __restrict__ from, int64_t from_stride,
                                          const Tile& at, int32_t chunk, int rows, int dim) {
    for (int i = threadIdx.x; i < CHUNK * dim; i += blockDim.x) {
        int row = i / dim, d = i % dim;
        s_to[row * stride + d] = row < rows ? from[at.row_of(chunk + row) * from_stride + d] : 0.0f;
    }
}

// Dot product of x [D] and y [D], d ascending.
__device__ __forceinline__ float dot_1(const float* x, const float* y, int dim) {
    float dot = 0.0f;
    for (int d = 0; d < dim; d++) dot = fmaf(x[d], y[d], dot);
    return dot;
}

// Four dot products of x [D] with the rows l, l + 8, l + 16, l + 24 of s_y.
__device__ __forceinline__ void dot_4(float (&dot)[4], const float* x, const float* s_y, int stride, int dim) {
    const float* y = s_y + threadIdx.x % LANES * stride;
#pragma unroll
    for (int c = 0; c < 4; c++) dot[c] = 0.0f;
    for (int d = 0; d < dim; d++) {
#pragma unroll
        for (int c = 0; c < 4; c++) dot[c] = fmaf(y[c * LANES * stride + d], x[d], dot[c]);
    }
}

// acc += sum over n of p[j] s_y[j], j ascending.
template <int ACC>
__device__ __forceinline__ void add_rows(float (&acc)[ACC], const float* p, int n, const float* s_y, int stride,
                                         int dim) {
    for (int j = 0; j < n; j++) {
#pragma unroll
        for (int r = 0; r < ACC; r++) {
            int d = threadIdx.x % LANES + LANES * r;
            if (d < dim) acc[r] = fmaf(p[j], s_y[j * stride + d], acc[r]);
        }
    }
}

// A query's step over one chunk, of which it sees the first `keys`. q [D] and s_p [CHUNK] are the query's own, in
// shared memory. The whole warp calls together.
template <int ACC>
__device__ __forceinline__ void walk_chunk(Walk<ACC>& w, const float* q, const float* s_k, const float* s_v, float* s_p,
                                           int stride, int dim, int keys, float scale) {
    int lane = threadIdx.x % LANES;
    float p[4];
    dot_4(p, q, s_k, stride, dim);
#pragma unroll
    for (int c = 0; c < 4; c++) p[c] = lane + LANES * c < keys ? p[c] * scale : NEG_INF;
    float top = chunk_max(p), new_max = top > w.max ? top : w.max;
    float rescale = exp_log_prob_f32(w.max - new_max);
#pragma unroll
    for (int c = 0; c < 4; c++) {
        p[c] = exp_log_prob_f32(p[c] - new_max);
        s_p[lane + LANES * c] = p[c];
    }
    w.sum = w.sum * rescale + chunk_sum(p);
    w.max = new_max;
#pragma unroll
    for (int r = 0; r < ACC; r++) w.acc[r] *= rescale;
    __syncwarp();  // s_p holds the chunk's probabilities
    add_rows(w.acc, s_p, keys, s_v, stride, dim);
    __syncwarp();  // s_p is read before the next chunk writes it
}
