// gemm_qkv        q, k, v = h wq^T + bq, h wk^T + bk, h wv^T + bv;   "normed": h = rmsnorm(x) w, made on the way
//
// Shapes          h [M, K], or x [M, K] and w [K]   wq [Nq, K]   wk, wv [Nkv, K]   bq [Nq], bk, bv [Nkv] or null
//                 q [M, Nq]   k, v [M, Nkv]; all f32 or all bf16
// Numerics        as gemm_nt, each sum from its bias or from zero; h as rmsnorm_fwd, rounded like its store.
// Parallel        tiles of gemm_nt, each of columns of one of the three matrices. "normed", for few rows: each block norms its
//                 own again, while the weight is on its way (common/gemm_normed.cuh). Which: src/ops/gemm_fused/gpu.rs.
// Cost            2 M (Nq + 2 Nkv) K FLOP; reads MK + (Nq + 2 Nkv) K elements at least, writes M (Nq + 2 Nkv).
// Determinism     an element's bits are those of rmsnorm_fwd, bias_fwd and gemm_nt one after another.
// Requires        normed: a tile's rows, and the ring, fit into shared memory.
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Sass sm_90a     gemm: PREEXIT ACQBULK
// Sass sm_90a     qkv_16x32: UBLKPF.L2
// Source          common/gemm_qkv.cuh, common/gemm_normed.cuh
// Oracle          src/ops/gemm_fused/oracle.rs
#include "common/gemm_normed.cuh"
#include "common/gemm_qkv.cuh"

// Block (x, y) has rows x BM.. and tile y of the columns.
template <int BM, int BN, typename Of>
__device__ __forceinline__ void gemm_qkv_tile(Of of, const Qkv<float>& all, int64_t m, int64_t k) {
    int64_t i0 = (int64_t)blockIdx.x * BM;
    Part<float> part = all.part(blockIdx.y, BN);
    float acc[4][4];
    int tj = threadIdx.x % (BN / 4) * 4;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        acc[0][j] = part.start(tj + j);
#pragma unroll
        for (int i = 1; i < 4; i++) acc[i][j] = acc[0][j];
    }
    gemm_f32_sums<false, false, BM, BN>(acc, of, part.w, m, part.n, k, i0, part.j0);
    each_four<BN>(acc, [&](int i, int j, const float (&x)[4]) { part.put(i0 + i, m, j, four(x)); });
}

extern "C" __global__ void __launch_bounds__(256)
    gemm_qkv_f32(const float* h, const float* __restrict__ wq, const float* __restrict__ wk,
                 const float* __restrict__ wv, const float* __restrict__ bq, const float* __restrict__ bk,
                 const float* __restrict__ bv, float* __restrict__ q, float* __restrict__ k, float* __restrict__ v,
                 int64_t m, int64_t n_q, int64_t n_kv, int64_t dim) {
    await_predecessors();
    AsIs<false> rows = {h, (int64_t)blockIdx.x * 64, m, dim};
    gemm_qkv_tile<64, 64>(rows, Qkv<float>{wq, wk, wv, bq, bk, bv, q, k, v, n_q, n_kv}, m, dim);
}

extern "C" __global__ void __launch_bounds__(64)
    gemm_qkv_normed_f32(const float* x, const float* __restrict__ w, const float* __restrict__ wq,
                        const float* __restrict__ wk, const float* __restrict__ wv, const float* __restrict__ bq,
                        const float* __restrict__ bk, const float* __restrict__ bv, float* __restrict__ q,
                        float* __restrict__ k, float* __restrict__ v, int64_t m, int64_t n_q, int64_t n_kv, int64_t dim,
                        float eps) {
    NormedF32 rows = norm_rows<16, 64>(Norm<float>{x, w, eps}, (int64_t)blockIdx.x * 16, m, dim);
    gemm_qkv_tile<16, 64>(rows, Qkv<float>{wq, wk, wv, bq, bk, bv, q, k, v, n_q, n_kv}, m, dim);
}

extern "C" __global__ void __launch_bounds__(Gemm128x128::THREADS, 2)
    gemm_qkv_128x128_bf16(const bf16* h, const bf16* __restrict__ wq, const bf16* __restrict__ wk,
                          const bf16* __restrict__ wv, const bf16* __restrict__ bq, const bf16* __restrict__ bk,
                          const bf16* __restrict__ bv, bf16* __restrict__ q, bf16* __restrict__ k, bf16* __restrict__ v,
                          int64_t m, int64_t n_q, int64_t n_kv, int64_t dim, int32_t vectors) {
    gemm_qkv_of<Gemm128x128>(h, Qkv<bf16>{wq, wk, wv, bq, bk, bv, q, k, v, n_q, n_kv}, m, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm64x64::THREADS)
    gemm_qkv_64x64_bf16(const bf16* h, const bf16* __restrict__ wq, const bf16* __restrict__ wk,
                        const bf16* __restrict__ wv, const bf16* __restrict__ bq, const bf16* __restrict__ bk,
                        const bf16* __restrict__ bv, bf16* __restrict__ q, bf16* __restrict__ k, bf16* __restrict__ v,
                        int64_t m, int64_t n_q, int64_t n_kv, int64_t dim, int32_t vectors) {
    gemm_qkv_of<Gemm64x64>(h, Qkv<bf16>{wq, wk, wv, bq, bk, bv, q, k, v, n_q, n_kv}, m, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm64x32::THREADS)
    gemm_qkv_64x32_bf16(const bf16* h, const bf16* __restrict__ wq, const bf16* __restrict__ wk,
                        const bf16* __restrict__ wv, const bf16* __restrict__ bq, const bf16* __restrict__ bk,
                        const bf16* __restrict__ bv, bf16* __restrict__ q, bf16* __restrict__ k, bf16* __restrict__ v,
                        int64_t m, int64_t n_q, int64_t n_kv, int64_t dim, int32_t vectors) {
    gemm_qkv_of<Gemm64x32>(h, Qkv<bf16>{wq, wk, wv, bq, bk, bv, q, k, v, n_q, n_kv}, m, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm16x32::THREADS)
    gemm_qkv_16x32_bf16(const bf16* h, const bf16* __restrict__ wq, const bf16* __restrict__ wk,
                        const bf16* __restrict__ wv, const bf16* __restrict__ bq, const bf16* __restrict__ bk,
                        const bf16* __restrict__ bv, bf16* __restrict__ q, bf16* __restrict__ k, bf16* __restrict__ v,
                        int64_t m, int64_t n_q, int64_t n_kv, int64_t dim, int32_t vectors) {
    gemm_qkv_of<Gemm16x32>(h, Qkv<bf16>{wq, wk, wv, bq, bk, bv, q, k, v, n_q, n_kv}, m, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm16x32::THREADS)
    gemm_qkv_normed_16x32_bf16(const bf16* x, const bf16* __restrict__ w, const bf16* __restrict__ wq,
                               const bf16* __restrict__ wk, const bf16* __restrict__ wv, const bf16* __restrict__ bq,
                               const bf16* __restrict__ bk, const bf16* __restrict__ bv, bf16* __restrict__ q,
                               bf16* __restrict__ k, bf16* __restrict__ v, int64_t m, int64_t n_q, int64_t n_kv, int64_t dim,
                               float eps, int32_t vectors) {
    gemm_qkv_of<Gemm16x32>(Norm<bf16>{x, w, eps}, Qkv<bf16>{wq, wk, wv, bq, bk, bv, q, k, v, n_q, n_kv}, m, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm16x8::THREADS)
    gemm_qkv_normed_16x8_bf16(const bf16* x, const bf16* __restrict__ w, const bf16* __restrict__ wq,
                              const bf16* __restrict__ wk, const bf16* __restrict__ wv, const bf16* __restrict__ bq,
                              const bf16* __restrict__ bk, const bf16* __restrict__ bv, bf16* __restrict__ q,
                              bf16* __restrict__ k, bf16* __restrict__ v, int64_t m, int64_t n_q, int64_t n_kv, int64_t dim,
                              float eps, int32_t vectors) {
    gemm_qkv_of<Gemm16x8>(Norm<bf16>{x, w, eps}, Qkv<bf16>{wq, wk, wv, bq, bk, bv, q, k, v, n_q, n_kv}, m, dim, vectors);
}
