// Rows of attention over pages that are new: each of a sequence of its own, as in decode. Queries come as they were projected,
// and are normed, where the family does, and rotated on their way into shared memory; the new key and value go to their slot on
// the way, by the block that walks the row's last segment, and no launch has to come before.
#pragma once

#include "common/attn_pages.cuh"
#include "common/qk_rope.cuh"

// The row of a block.
struct RowAt {
    int64_t row;
    int32_t kv, pos, page;  // the new slot's page, -1 where there is none
    int32_t n_heads, n_kv_heads;
    bool appends;
};

template <typename T>
struct NewRows {
    static constexpr bool TOGETHER = false;
    static constexpr int MOST = 16;  // query heads that walk together
    const T* q;      // [N, H, D]
    const T* k;      // [N, Hk, D]
    const T* v;      // [N, Hk, D]
    const T* wq;     // [D], null where the family has no norm
    const T* wk;     // [D], the same
    const float* table;  // [T, D]
    T* k_pages;      // [P, Hk, S, D]
    T* v_pages;      // [P, Hk, S, D]
    int32_t n_positions;
    float eps;
    int32_t vectors;

    // Heads first.. of the row, n of them, to to_q(i, d); the rows' key and value to their slot. s_free is [n + 2, row_stride].
    // All stand where they go when the block has passed.
    template <int N, typename ToQ>
    __device__ __forceinline__ void stage(T* s_free, const RowAt& at, int32_t first, int32_t n, int32_t dim, ToQ to_q) const {
        __shared__ float s_rstd[MOST + 2];
        Side<T> queries = {q, wq, nullptr, at.n_heads}, keys = {k, wk, nullptr, at.n_kv_heads};
        Angles angles(table, at.pos, n_positions, dim);
        auto head = [&](int32_t i) -> Head<T> {
            if (i < n) return queries.head(at.row, first + i, dim);
            if (i == n) return keys.head(at.row, at.kv, dim);
            return {v + (at.row * at.n_kv_heads + at.kv) * dim, nullptr, nullptr, false};
        };
        auto to = [&](int32_t i, int32_t d) -> T* {
            if (i < n) return to_q(i, d);
            if (at.page < 0) return nullptr;
            return (i == n ? k_pages : v_pages) + (((int64_t)at.page * at.n_kv_heads + at.kv) * CHUNK + at.pos % CHUNK) * dim + d;
        };
        auto angles_of = [&](int32_t) { return angles; };
        rotate_heads<N>(s_free, s_rstd, n + (at.appends ? 2 : 0), wq != nullptr, dim, eps, angles_of, head, to);
        __syncthreads();  // queries stand in shared memory, the new key and value in their page; s_free is free
    }
};
