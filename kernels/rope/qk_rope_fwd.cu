// qk_rope_fwd     q, k = rope(rmsnorm(q) wq), rope(rmsnorm(k) wk) in every head; without norms rope(q), rope(k) in place
//
// Shapes          q_raw, q [N, H, D]   k_raw, k [N, Hk, D] f32 or bf16   wq, wk [D] the same; without norms raw and w are
//                 null   q_rstd [N, H], k_rstd [N, Hk] f32   positions [N] i32   table [T, D] f32: cos [D/2], sin
//                 [D/2]
// Numerics        f32; one rounding after the norm, one at the store.
// Parallel        a block all heads of a row, or of as many rows as have 4096 elements, half a warp a head; the angles and wq,
//                 wk stand in shared memory: common/qk_rope.cuh.
// Cost            reads and writes N (H + Hk) D elements, reads 4ND bytes of the table, writes 4N (H + Hk) bytes. Memory bound.
// Sass            qk_rope: LD.E.128 STG.E.128
// Determinism     a row's bits depend on that row alone: those of rmsnorm_fwd and rope one after another.
// Requires        D even; positions in 0..T, another row becomes NaN.
// Source          Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4; Su et al. 2021, arXiv:2104.09864, eq. 34.
// Oracle          src/ops/qk_rope/oracle.rs
#include "common/qk_rope.cuh"

template <typename T>
__device__ __forceinline__ void qk_rope_fwd(const Side<T>& q, const Side<T>& k, T* q_to, T* k_to,
                                            const int32_t* __restrict__ positions, const float* __restrict__ table,
                                            int32_t n_positions, int32_t head_dim, float eps, const Share& share,
                                            int32_t vectors) {
    int64_t first = share.first();
    auto position = [&](int32_t i) { return positions[first + i]; };
    auto to = [&](int32_t i, int32_t head, int32_t d) {
        bool of_q = head < q.n_heads;
        int64_t at = of_q ? (first + i) * q.n_heads + head : (first + i) * k.n_heads + head - q.n_heads;
        return (of_q ? q_to : k_to) + at * head_dim + d;
    };
    const T* no_values = nullptr;
    vectors ? qk_rope<PACK<T>>(q, k, no_values, share, position, table, n_positions, head_dim, eps, to)
            : qk_rope<1>(q, k, no_values, share, position, table, n_positions, head_dim, eps, to);
}

extern "C" __global__ void __launch_bounds__(QK_THREADS)
    qk_rope_fwd_f32(const float* q_raw, const float* k_raw, const float* __restrict__ wq, const float* __restrict__ wk,
                    const int32_t* __restrict__ positions, const float* __restrict__ table, float* q, float* k,
                    float* __restrict__ q_rstd, float* __restrict__ k_rstd, int64_t n_rows, int32_t n_positions, int32_t n_heads,
                    int32_t n_kv_heads, int32_t head_dim, float eps, int32_t rows, int32_t heads,
                    int32_t vectors) {
    qk_rope_fwd(Side<float>{wq ? q_raw : q, wq, q_rstd, n_heads}, Side<float>{wk ? k_raw : k, wk, k_rstd, n_kv_heads}, q, k,
                positions, table, n_positions, head_dim, eps, Share{n_rows, rows, heads}, vectors);
}

extern "C" __global__ void __launch_bounds__(QK_THREADS)
    qk_rope_fwd_bf16(const bf16* q_raw, const bf16* k_raw, const bf16* __restrict__ wq, const bf16* __restrict__ wk,
                     const int32_t* __restrict__ positions, const float* __restrict__ table, bf16* q, bf16* k,
                     float* __restrict__ q_rstd, float* __restrict__ k_rstd, int64_t n_rows, int32_t n_positions, int32_t n_heads,
                     int32_t n_kv_heads, int32_t head_dim, float eps, int32_t rows, int32_t heads,
                     int32_t vectors) {
    qk_rope_fwd(Side<bf16>{wq ? q_raw : q, wq, q_rstd, n_heads}, Side<bf16>{wk ? k_raw : k, wk, k_rstd, n_kv_heads}, q, k,
                positions, table, n_positions, head_dim, eps, Share{n_rows, rows, heads}, vectors);
}
