// attn_decode_bf16  o = softmax(scale q k^T) v over the keys 0 .. pos of the row's sequence, which stand in pages
//
// Shapes          q, o [N, H, D], k_pages, v_pages [P, Hk, S, D] bf16, S = 32   seq, pos [N] i32
//                 table [B, max_pages] i32   parts: common/attn_pages.cuh, null with one block a row
// Numerics        as attn_fwd_bf16; a page is a chunk.
// Parallel        a block a row, kv head and every gridDim.z-th segment. The group's query heads, and with them the
//                 following rows of the sequence, are the 16 rows of a fragment; two of four warps have the scores of 16
//                 keys of a page each, all a quarter of the output's columns; pages come by cp.async three ahead.
// Cost            4 D FLOP a row, head and key; reads 2 Hk D elements a row and key. Memory bound.
// Determinism     a row's bits depend on its sequence up to it alone: those of attn_fwd_bf16.
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Requires        pages in 0..P; a row with another page becomes NaN.
// Source          Dao et al. 2022, arXiv:2205.14135, alg. 1; Kwon et al. 2023, arXiv:2309.06180 (pages).
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_decode_bf16.cuh"

extern "C" __global__ void __launch_bounds__(128, 4)
    attn_decode_bf16_d32(const bf16* __restrict__ q, const bf16* __restrict__ k_pages, const bf16* __restrict__ v_pages,
                         const int32_t* __restrict__ seq, const int32_t* __restrict__ pos,
                         const int32_t* __restrict__ table, bf16* __restrict__ o, float* __restrict__ parts, int64_t n_rows,
                         int32_t max_pages, int32_t n_pages, int32_t n_segments, int32_t n_heads, int32_t n_kv_heads,
                         int32_t dim, float scale) {
    attn_decode<32>(GivenRows{q}, k_pages, v_pages, seq, pos, table, o, Parts{parts, n_segments, dim}, n_rows,
                    max_pages, n_pages, n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    attn_decode_bf16_d64(const bf16* __restrict__ q, const bf16* __restrict__ k_pages, const bf16* __restrict__ v_pages,
                         const int32_t* __restrict__ seq, const int32_t* __restrict__ pos,
                         const int32_t* __restrict__ table, bf16* __restrict__ o, float* __restrict__ parts, int64_t n_rows,
                         int32_t max_pages, int32_t n_pages, int32_t n_segments, int32_t n_heads, int32_t n_kv_heads,
                         int32_t dim, float scale) {
    attn_decode<64>(GivenRows{q}, k_pages, v_pages, seq, pos, table, o, Parts{parts, n_segments, dim}, n_rows,
                    max_pages, n_pages, n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 3)
    attn_decode_bf16_d128(const bf16* __restrict__ q, const bf16* __restrict__ k_pages,
                          const bf16* __restrict__ v_pages, const int32_t* __restrict__ seq,
                          const int32_t* __restrict__ pos, const int32_t* __restrict__ table, bf16* __restrict__ o,
                          float* __restrict__ parts, int64_t n_rows, int32_t max_pages, int32_t n_pages,
                          int32_t n_segments, int32_t n_heads, int32_t n_kv_heads, int32_t dim, float scale) {
    attn_decode<128>(GivenRows{q}, k_pages, v_pages, seq, pos, table, o, Parts{parts, n_segments, dim}, n_rows,
                    max_pages, n_pages, n_heads, n_kv_heads, scale);
}
