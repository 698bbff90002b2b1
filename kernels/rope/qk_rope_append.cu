// qk_rope_append  q = rope(rmsnorm(q) wq), and slot pos % S of page table[seq][pos / S] = rope(rmsnorm(k) wk), v of a new row;
//                 without norms rope alone, q in place
//
// Shapes          q_raw, q [N, H, D]   k, v [N, Hk, D] f32 or bf16   wq, wk [D] the same; without norms q_raw and w are null
//                 seq, pos [N] i32   pages [B, max_pages] i32   table [T, D] f32: cos [D/2], sin [D/2]
//                 k_pages, v_pages [P, Hk, S, D], S = 32
// Numerics        f32; one rounding after the norm, one at the store. Values are copied.
// Parallel        as qk_rope_fwd; a row's heads are those of queries, keys and values, and a thread looks up where it lives.
// Cost            reads and writes N (H + 2 Hk) D elements, reads 4ND bytes of the table. Memory bound.
// Sass            qk_rope: LD.E.128 STG.E.128
// Determinism     each slot is one row's, whose bits depend on that row alone: those of rmsnorm_fwd, rope and kv_append one
//                 after another.
// Requires        D even; the page in 0..P, a row of another page is not written; pos in 0..T, another row becomes NaN.
// Source          as qk_rope_fwd; Kwon et al. 2023, arXiv:2309.06180.
// Oracle          src/ops/qk_rope/oracle.rs
#include "common/qk_rope.cuh"

constexpr int SLOTS = 32;

// Where rows live.
struct Rows {
    const int32_t* __restrict__ seq;    // [N]
    const int32_t* __restrict__ pos;    // [N]
    const int32_t* __restrict__ pages;  // [B, max_pages]
    int32_t max_pages, n_pages;

    // The page of a row, or -1.
    __device__ __forceinline__ int32_t page(int64_t row) const {
        int32_t at = pos[row];
        if (at < 0 || at / SLOTS >= max_pages) return -1;
        int32_t page = pages[(int64_t)seq[row] * max_pages + at / SLOTS];
        return page < n_pages ? page : -1;
    }
};

template <typename T>
__device__ __forceinline__ void qk_rope_append(const Side<T>& q, const Side<T>& k, const T* v, const Rows& rows,
                                               const float* __restrict__ table, T* q_to, T* k_pages, T* v_pages,
                                               int32_t n_positions, int32_t head_dim, float eps, const Share& share,
                                               int32_t vectors) {
    __shared__ int32_t s_page[QK_ROWS], s_slot[QK_ROWS];
    int64_t first = share.first();
    // The second warp: the first reads angles.
    int i = (int)threadIdx.x - 32;
    if (i >= 0 && i < share.live()) {
        s_page[i] = rows.page(first + i);
        s_slot[i] = rows.pos[first + i] % SLOTS;
    }
    auto position = [&](int32_t i) { return rows.pos[first + i]; };
    auto to = [&](int32_t i, int32_t head, int32_t d) -> T* {
        if (head < q.n_heads) return q_to + ((first + i) * q.n_heads + head) * head_dim + d;
        if (s_page[i] < 0) return nullptr;
        bool of_k = head < q.n_heads + k.n_heads;
        int32_t kv = head - q.n_heads - (of_k ? 0 : k.n_heads);
        return (of_k ? k_pages : v_pages) + (((int64_t)s_page[i] * k.n_heads + kv) * SLOTS + s_slot[i]) * head_dim + d;
    };
    vectors ? qk_rope<PACK<T>>(q, k, v, share, position, table, n_positions, head_dim, eps, to)
            : qk_rope<1>(q, k, v, share, position, table, n_positions, head_dim, eps, to);
}

extern "C" __global__ void __launch_bounds__(QK_THREADS)
    qk_rope_append_f32(const float* q_raw, const float* __restrict__ k, const float* __restrict__ v,
                       const float* __restrict__ wq, const float* __restrict__ wk, const int32_t* __restrict__ seq,
                       const int32_t* __restrict__ pos, const int32_t* __restrict__ pages,
                       const float* __restrict__ table, float* q, float* __restrict__ k_pages,
                       float* __restrict__ v_pages, int64_t n_rows, int32_t max_pages, int32_t n_pages, int32_t n_positions,
                       int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, float eps, int32_t rows,
                       int32_t heads, int32_t vectors) {
    qk_rope_append(Side<float>{wq ? q_raw : q, wq, nullptr, n_heads}, Side<float>{k, wk, nullptr, n_kv_heads}, v,
                   Rows{seq, pos, pages, max_pages, n_pages}, table, q, k_pages, v_pages, n_positions, head_dim, eps,
                   Share{n_rows, rows, heads}, vectors);
}

extern "C" __global__ void __launch_bounds__(QK_THREADS)
    qk_rope_append_bf16(const bf16* q_raw, const bf16* __restrict__ k, const bf16* __restrict__ v,
                        const bf16* __restrict__ wq, const bf16* __restrict__ wk, const int32_t* __restrict__ seq,
                        const int32_t* __restrict__ pos, const int32_t* __restrict__ pages,
                        const float* __restrict__ table, bf16* q, bf16* __restrict__ k_pages,
                        bf16* __restrict__ v_pages, int64_t n_rows, int32_t max_pages, int32_t n_pages, int32_t n_positions,
                        int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, float eps, int32_t rows,
                        int32_t heads, int32_t vectors) {
    qk_rope_append(Side<bf16>{wq ? q_raw : q, wq, nullptr, n_heads}, Side<bf16>{k, wk, nullptr, n_kv_heads}, v,
                   Rows{seq, pos, pages, max_pages, n_pages}, table, q, k_pages, v_pages, n_positions, head_dim, eps,
                   Share{n_rows, rows, heads}, vectors);
}
