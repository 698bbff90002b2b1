// kv_append       slot pos % S of page table[seq][pos / S] = k, v of a new row
//
// Shapes          k, v [N, Hk, D] f32 or bf16   seq, pos [N] i32   table [B, max_pages] i32
//                 k_pages, v_pages [P, Hk, S, D], S = 32
// Numerics        a copy.
// Parallel        a block a row, or as many as its 128 threads have vectors for, 16 bytes each where heads allow it: where
//                 rows lie, short ones learn together.
// Cost            reads and writes 2 N Hk D elements. Memory bound.
// Sass            append: LDG.E.128 STG.E.128
// Determinism     each slot is one row's.
// Requires        the page in 0..P; a row of another page is not written.
// Source          Kwon et al. 2023, arXiv:2309.06180.
#include "common/types.cuh"

constexpr int SLOTS = 32;

template <int N, typename T>
__device__ __forceinline__ void kv_append(const T* __restrict__ k,            // [N, Hk, D]
                                          const T* __restrict__ v,            // [N, Hk, D]
                                          const int32_t* __restrict__ seq,    // [N]
                                          const int32_t* __restrict__ pos,    // [N]
                                          const int32_t* __restrict__ table,  // [B, max_pages]
                                          T* __restrict__ k_pages,            // [P, Hk, S, D]
                                          T* __restrict__ v_pages,            // [P, Hk, S, D]
                                          int64_t n_rows, int32_t max_pages, int32_t n_pages, int32_t n_kv_heads,
                                          int32_t head_dim, int32_t rows) {
    int32_t width = n_kv_heads * head_dim;
    int64_t first = (int64_t)blockIdx.x * rows;
    int32_t live = (int32_t)min((int64_t)rows, n_rows - first);
    for (int32_t i = threadIdx.x * N; i < live * width; i += blockDim.x * N) {
        int64_t row = first + i / width;
        int32_t column = i % width, head = column / head_dim, d = column % head_dim;
        int32_t at = pos[row];
        if (at < 0 || at / SLOTS >= max_pages) continue;
        int32_t page = table[(int64_t)seq[row] * max_pages + at / SLOTS];
        if (page < 0 || page >= n_pages) continue;
        int64_t to = (((int64_t)page * n_kv_heads + head) * SLOTS + at % SLOTS) * head_dim + d;
        store_pack(k_pages + to, load_pack<N>(k + first * width + i));
        store_pack(v_pages + to, load_pack<N>(v + first * width + i));
    }
}

template <typename T>
__device__ __forceinline__ void kv_append(const T* __restrict__ k, const T* __restrict__ v,
                                          const int32_t* __restrict__ seq, const int32_t* __restrict__ pos,
                                          const int32_t* __restrict__ table, T* __restrict__ k_pages,
                                          T* __restrict__ v_pages, int64_t n_rows, int32_t max_pages, int32_t n_pages,
                                          int32_t n_kv_heads, int32_t head_dim, int32_t rows, int32_t vectors) {
    vectors ? kv_append<PACK<T>>(k, v, seq, pos, table, k_pages, v_pages, n_rows, max_pages, n_pages, n_kv_heads, head_dim, rows)
            : kv_append<1>(k, v, seq, pos, table, k_pages, v_pages, n_rows, max_pages, n_pages, n_kv_heads, head_dim, rows);
}

extern "C" __global__ void __launch_bounds__(128)
    kv_append_f32(const float* __restrict__ k, const float* __restrict__ v, const int32_t* __restrict__ seq,
                  const int32_t* __restrict__ pos, const int32_t* __restrict__ table, float* __restrict__ k_pages,
                  float* __restrict__ v_pages, int64_t n_rows, int32_t max_pages, int32_t n_pages,
                  int32_t n_kv_heads, int32_t head_dim, int32_t rows, int32_t vectors) {
    kv_append(k, v, seq, pos, table, k_pages, v_pages, n_rows, max_pages, n_pages, n_kv_heads, head_dim, rows, vectors);
}

extern "C" __global__ void __launch_bounds__(128)
    kv_append_bf16(const bf16* __restrict__ k, const bf16* __restrict__ v,
                   const int32_t* __restrict__ seq, const int32_t* __restrict__ pos,
                   const int32_t* __restrict__ table, bf16* __restrict__ k_pages,
                   bf16* __restrict__ v_pages, int64_t n_rows, int32_t max_pages, int32_t n_pages,
                   int32_t n_kv_heads, int32_t head_dim, int32_t rows, int32_t vectors) {
    kv_append(k, v, seq, pos, table, k_pages, v_pages, n_rows, max_pages, n_pages, n_kv_heads, head_dim, rows, vectors);
}
