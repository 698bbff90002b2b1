// attn_step_bf16  attn_decode_bf16 of a new row of each sequence: q, k = rope(rmsnorm(q) wq), rope(rmsnorm(k) wk), without norms
//                 rope alone; slot pos % S of page pages[seq][pos / S] = k, v; then o over the keys 0 .. pos
//
// Shapes          q, o [N, H, D]   k, v [N, Hk, D] bf16   wq, wk [D] the same, or null   seq, pos [N] i32
//                 pages [B, max_pages] i32   table [T, D] f32: cos [D/2], sin [D/2]   k_pages, v_pages [P, Hk, S, D], S = 32
//                 parts: common/attn_pages.cuh, null with one block a row
// Numerics        as rmsnorm_fwd, rope, kv_append and attn_decode_bf16 one after another.
// Parallel        blocks as in attn_decode_bf16; each norms and rotates its queries first, that of a row's last segment its key
//                 too (common/attn_step.cuh).
// Cost            as attn_decode_bf16; reads N (H + 2 Hk) D elements and 4ND bytes of the table, writes 2 N Hk D elements.
// Determinism     a row's bits depend on its sequence up to it alone: those of the four kernels one after another.
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Sass sm_90a     attn: PREEXIT ACQBULK
// Requires        each row of a sequence of its own, whose new slot no other sequence has; D even; pages in 0..P; a row with
//                 another page becomes NaN, as does one whose pos is not in 0..T.
// Source          as qk_rope_append and attn_decode_bf16
// Oracle          src/ops/attn_step/oracle.rs
#include "common/attn_decode_bf16.cuh"

extern "C" __global__ void __launch_bounds__(128, 4)
    attn_step_bf16_d32(const bf16* q, const bf16* k, const bf16* v,
                       const bf16* __restrict__ wq, const bf16* __restrict__ wk, const int32_t* __restrict__ seq,
                       const int32_t* __restrict__ pos, const int32_t* __restrict__ pages,
                       const float* __restrict__ table, bf16* k_pages, bf16* v_pages, bf16* __restrict__ o,
                       float* parts, int64_t n_rows, int32_t max_pages, int32_t n_pages,
                       int32_t n_segments, int32_t n_positions, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                       float scale, float eps, int32_t vectors) {
    NewRowsBf16 rows = {{q, k, v, wq, wk, table, k_pages, v_pages, n_positions, eps, vectors}};
    attn_decode<32>(rows, k_pages, v_pages, seq, pos, pages, o, Parts{parts, n_segments, dim}, n_rows, max_pages, n_pages,
                    n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    attn_step_bf16_d64(const bf16* q, const bf16* k, const bf16* v,
                       const bf16* __restrict__ wq, const bf16* __restrict__ wk, const int32_t* __restrict__ seq,
                       const int32_t* __restrict__ pos, const int32_t* __restrict__ pages,
                       const float* __restrict__ table, bf16* k_pages, bf16* v_pages, bf16* __restrict__ o,
                       float* parts, int64_t n_rows, int32_t max_pages, int32_t n_pages,
                       int32_t n_segments, int32_t n_positions, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                       float scale, float eps, int32_t vectors) {
    NewRowsBf16 rows = {{q, k, v, wq, wk, table, k_pages, v_pages, n_positions, eps, vectors}};
    attn_decode<64>(rows, k_pages, v_pages, seq, pos, pages, o, Parts{parts, n_segments, dim}, n_rows, max_pages, n_pages,
                    n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 3)
    attn_step_bf16_d128(const bf16* q, const bf16* k, const bf16* v,
                        const bf16* __restrict__ wq, const bf16* __restrict__ wk, const int32_t* __restrict__ seq,
                        const int32_t* __restrict__ pos, const int32_t* __restrict__ pages,
                        const float* __restrict__ table, bf16* k_pages, bf16* v_pages, bf16* __restrict__ o,
                        float* parts, int64_t n_rows, int32_t max_pages, int32_t n_pages,
                        int32_t n_segments, int32_t n_positions, int32_t n_heads, int32_t n_kv_heads, int32_t dim,
                        float scale, float eps, int32_t vectors) {
    NewRowsBf16 rows = {{q, k, v, wq, wk, table, k_pages, v_pages, n_positions, eps, vectors}};
    attn_decode<128>(rows, k_pages, v_pages, seq, pos, pages, o, Parts{parts, n_segments, dim}, n_rows, max_pages, n_pages,
                    n_heads, n_kv_heads, scale);
}
