// A row's heads between their projections and attention: queries and keys normed, where the family does, and rotated by the
// row's position. The arithmetic and the roundings are those of rmsnorm_fwd and rope one after another.
//
// With norms heads stand in shared memory, half a warp sums one, as in rmsnorm_fwd. Then a thread has 16 bytes of each half of a
// head where heads allow it, else one pair.
#pragma once

#include "common/rope.cuh"
#include "common/rows.cuh"

// A head as it was projected.
template <typename T>
struct Head {
    const T* from;  // [D]
    const T* w;     // [D], the norm's
    float* rstd;    // where the norm's goes, null where nobody needs it
    bool rotates;     // values are only moved
};

// n heads: head(i) is the i-th, angles(i) are its row's, to(i, d) is where its elements from d on go, null where they go nowhere.
// s_x [n, row_stride] and s_rstd [n] are used where heads are normed.
template <int N, typename T, typename AnglesOf, typename HeadOf, typename To>
__device__ __forceinline__ void rotate_heads(T* s_x, float* s_rstd, int32_t n, bool normed, int32_t head_dim, float eps,
                                           AnglesOf angles, HeadOf head, To to) {
    int32_t half = head_dim / 2;
    if (normed) {
        each_vector<N>(n, head_dim, [&](int i, int at, int column) {
            store_pack(s_x + at, load_pack<N>(head(i / head_dim).from + column));
        });
        __syncthreads();  // s_x holds the heads
        for (int first = 0; first < n; first += blockDim.x / ROW_LANES) {
            int mine = first + threadIdx.x / ROW_LANES;
            Head<T> of = head(min(mine, n - 1));
            bool has = mine < n && of.rotates;
            const T* s_head = s_x + min(mine, n - 1) * row_stride(head_dim);
            float r = row_rstd(has, head_dim, eps, [=](int i) { return to_f32(s_head[i]); });
            if (has && threadIdx.x % ROW_LANES == 0) s_rstd[mine] = r;
        }
        __syncthreads();  // s_rstd holds the heads'
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            Head<T> of = head(i);
            if (of.rotates && of.rstd != nullptr) *of.rstd = s_rstd[i];
        }
    }
    for (int i = threadIdx.x * N; i < n * half; i += blockDim.x * N) {
        int32_t mine = i / half, d = i - mine * half;
        T *first = to(mine, d), *second = to(mine, half + d);
        if (first == nullptr) continue;
        Head<T> of = head(mine);
        const T* from = normed ? s_x + mine * row_stride(head_dim) : of.from;
        Pack<T, N> x = load_pack<N>(from + d), y = load_pack<N>(from + half + d);
        if (of.rotates) {
            if (normed) {
                Pack<T, N> u = load_pack<N>(of.w + d), z = load_pack<N>(of.w + half + d);
                float r = s_rstd[mine];
#pragma unroll
                for (int e = 0; e < N; e++) {
                    x.v[e] = from_f32<T>(to_f32(x.v[e]) * r * to_f32(u.v[e]));
                    y.v[e] = from_f32<T>(to_f32(y.v[e]) * r * to_f32(z.v[e]));
                }
            }
            angles(mine).template rotate<N>(x, y, d, 1.0f);
        }
        store_pack(first, x);
        store_pack(second, y);
    }
}

constexpr int QK_THREADS = 256;
constexpr int QK_ROWS = 16;    // of a block of qk_rope_*, at most
constexpr int QK_HEADS = 128;  // that stand in shared memory at once, at most

// Heads of a row, of queries or of keys.
template <typename T>
struct Side {
    const T* from;  // [N, heads, D]
    const T* w;     // [D], null where the family has no norm
    float* rstd;    // [N, heads], null where nobody needs it
    int32_t n_heads;

    __device__ __forceinline__ Head<T> head(int64_t row, int32_t i, int32_t head_dim) const {
        int64_t at = row * n_heads + i;
        return {from + at * head_dim, w, rstd != nullptr ? rstd + at : nullptr, true};
    }
};

// How many heads of how many rows a block has.
struct Share {
    int64_t n_rows;
    int32_t rows;   // of a block
    int32_t heads;  // that it has at once

    __device__ __forceinline__ int64_t first() const { return (int64_t)blockIdx.x * rows; }
    __device__ __forceinline__ int32_t live() const { return (int32_t)min((int64_t)rows, n_rows - first()); }
};

// All heads of a block's rows, counted over queries, keys and, where there are some, values [N, k.n_heads, D]; the rows' angles
// and the weights of the norms are read once. positions(i) is the position of the block's i-th row; to(i, head, d): see
// rotate_heads, of that row. What the caller has put into shared memory is there when `to` is asked.
template <int N, typename T, typename PositionOf, typename To>
__device__ __forceinline__ void qk_rope(Side<T> q, Side<T> k, const T* v, const Share& share, PositionOf positions,
                                        const float* __restrict__ table, int32_t n_positions, int32_t head_dim, float eps,
                                        To to) {
    SHARED_DYNAMIC(float, s_angles);  // [rows, D], then, where heads are normed, wq, wk [2, D] and heads [heads, row_stride]
    __shared__ float s_rstd[QK_HEADS];
    T *s_w = reinterpret_cast<T*>(s_angles + share.rows * head_dim), *s_x = s_w + 2 * head_dim;
    int32_t rotated = q.n_heads + k.n_heads, all = rotated + (v != nullptr ? k.n_heads : 0), live = share.live();
    int64_t first = share.first();
    bool normed = q.w != nullptr;
    stage_angles<N>(s_angles, live, table, n_positions, head_dim, positions);
    if (normed) {
        for (int i = threadIdx.x * N; i < 2 * head_dim; i += blockDim.x * N) {
            store_pack(s_w + i, load_pack<N>(i < head_dim ? q.w + i : k.w + i - head_dim));
        }
        q.w = s_w, k.w = s_w + head_dim;
    } else {
        __syncthreads();  // s_angles holds the rows'; with norms it does behind the barriers of the first heads
    }
    for (int from = 0; from < live * all; from += share.heads) {
        auto head = [&](int32_t i) -> Head<T> {
            int64_t row = first + (from + i) / all;
            int32_t at = (from + i) % all;
            if (at < q.n_heads) return q.head(row, at, head_dim);
            if (at < rotated) return k.head(row, at - q.n_heads, head_dim);
            return {v + (row * k.n_heads + at - rotated) * head_dim, nullptr, nullptr, false};
        };
        auto angles = [&](int32_t i) { return StagedAngles{s_angles, (from + i) / all * head_dim, head_dim / 2}; };
        auto to_row = [&](int32_t i, int32_t d) { return to((from + i) / all, (from + i) % all, d); };
        if (from > 0) __syncthreads();  // the heads before are read
        rotate_heads<N>(s_x, s_rstd, min(share.heads, live * all - from), normed, head_dim, eps, angles, head, to_row);
    }
}
