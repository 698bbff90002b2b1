// gemm_qkv_sm90   q, k, v = h wq^T + bq, h wk^T + bk, h wv^T + bv, on Hopper's copy engine and wgmma: the twin of gemm_qkv
//
// Shapes          h [M, K]   wq [Nq, K]   wk, wv [Nkv, K], all bf16, by tensor maps   bq [Nq], bk, bv [Nkv] or null
//                 q [M, Nq]   k, v [M, Nkv] bf16;   "normed": x [M, K] and w [K] for h, none of them by a map
// Numerics        as gemm_nt_sm90, each sum from its bias or from zero.
// Parallel        tiles of gemm_nt_sm90, each of columns of one of the three matrices. "normed", for few rows: the tiles of gemm_qkv,
//                 eight a cluster, each norms some of the rows for all (common/gemm_normed.cuh).
// Cost            as gemm_qkv.
// Determinism     as gemm_nt_sm90.
// Requires        K % 8 == 0, K > 0, all matrices on 16 bytes; sm_90a.
// Sass            qkv_sm90: UTMALDG.2D.MULTICAST SYNCS.PHASECHK
// Sass            normed: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128 UCGABAR_ARV UCGABAR_WAIT ST.E.128
// Sass            128x256: HGMMA.64x256x16.F32.BF16 USETMAXREG ST.E.128
// Sass            128x128: HGMMA.64x128x16.F32.BF16 USETMAXREG ST.E.128
// Sass            64x32: HGMMA.64x32x16.F32.BF16 ST.E.128
// Sass            16x32: HMMA.16816.F32.BF16 LDSM
// Sass sm_90a     sm90: PREEXIT ACQBULK
// Source          common/gemm_sm90.cuh, common/gemm_qkv.cuh
// Oracle          src/ops/gemm_fused/oracle.rs
#include "common/gemm_few_sm90.cuh"
#include "common/gemm_qkv.cuh"

#ifdef HAGGLE_SM90
template <class T>
__device__ __forceinline__ void gemm_qkv_sm90(const TensorMap& h, const TensorMap& wq, const TensorMap& wk,
                                              const TensorMap& wv, const Qkv<bf16>& all, int64_t m, int64_t dim) {
    int64_t i0, tile = qkv_tile_of_block<T>(all, m, i0);
    Part<bf16> part = all.part(tile, T::N);
    int which = all.which(tile, T::N);
    const TensorMap& w = which == 0 ? wq : which == 1 ? wk : wv;
    gemm_sm90_sums<T, false, false>(
        dim,
        [&](const RingSm90& ring, int steps) { copy_tile<T, false, false>(ring, h, w, i0, part.j0, steps, 0); },
        [&](int, int j) { return Pack<float, 2>{{part.start(j), part.start(j + 1)}}; },
        [&](float (&acc)[T::N / 8][4], bf16* s_panels) {
            each_eight<T::N>(
                s_panels, [&](int j, int r) { return rounded<bf16>(two_sums(acc[j], r)); },
                [&](int i, int j, const bf16* s_eight) { part.put_eight(i0 + i, m, j, s_eight); });
        });
}

// The same of few rows.
template <class T>
__device__ __forceinline__ void gemm_qkv_few_sm90(const TensorMap& h, const TensorMap& wq, const TensorMap& wk,
                                                  const TensorMap& wv, const Qkv<bf16>& all, int64_t m, int64_t dim) {
    int64_t i0, tile = qkv_tile_of_block<T>(all, m, i0);
    Part<bf16> part = all.part(tile, T::N);
    int which = all.which(tile, T::N);
    const TensorMap& w = which == 0 ? wq : which == 1 ? wk : wv;
    gemm_few_sm90_sums<T, RingColumns<T, false>>(
        dim, [&](const RingSm90& ring, int steps) { copy_tile<T, false, false>(ring, h, w, i0, part.j0, steps, 0); },
        [&](int, int j) { return part.start(j); },
        [&](float (&acc)[T::FRAGS_M][T::FRAGS_N][4]) {
            each_two<T>(acc, [&](int i, int j, const Pack<float, 2>& x) { part.put(i0 + i, m, j, x); });
        });
}
#endif

extern "C" __global__ void __launch_bounds__(384, 1) CLUSTER(2)
    gemm_qkv_sm90_128x256_bf16(const __grid_constant__ TensorMap h, const __grid_constant__ TensorMap wq,
                               const __grid_constant__ TensorMap wk, const __grid_constant__ TensorMap wv,
                               const bf16* __restrict__ bq, const bf16* __restrict__ bk, const bf16* __restrict__ bv,
                               bf16* __restrict__ q, bf16* __restrict__ k, bf16* __restrict__ v, int64_t m, int64_t n_q,
                               int64_t n_kv, int64_t dim) {
#ifdef HAGGLE_SM90
    Qkv<bf16> all = {nullptr, nullptr, nullptr, bq, bk, bv, q, k, v, n_q, n_kv};
    gemm_qkv_sm90<Sm90Tile128x256>(h, wq, wk, wv, all, m, dim);
#else
    __trap();  // other chips have the tiles of gemm_qkv
#endif
}

extern "C" __global__ void __launch_bounds__(384, 1) CLUSTER(2)
    gemm_qkv_sm90_128x128_bf16(const __grid_constant__ TensorMap h, const __grid_constant__ TensorMap wq,
                               const __grid_constant__ TensorMap wk, const __grid_constant__ TensorMap wv,
                               const bf16* __restrict__ bq, const bf16* __restrict__ bk, const bf16* __restrict__ bv,
                               bf16* __restrict__ q, bf16* __restrict__ k, bf16* __restrict__ v, int64_t m, int64_t n_q,
                               int64_t n_kv, int64_t dim) {
#ifdef HAGGLE_SM90
    Qkv<bf16> all = {nullptr, nullptr, nullptr, bq, bk, bv, q, k, v, n_q, n_kv};
    gemm_qkv_sm90<Sm90Tile128x128>(h, wq, wk, wv, all, m, dim);
#else
    __trap();  // other chips have the tiles of gemm_qkv
#endif
}

extern "C" __global__ void __launch_bounds__(160) CLUSTER(8)
    gemm_qkv_sm90_64x32_bf16(const __grid_constant__ TensorMap h, const __grid_constant__ TensorMap wq,
                             const __grid_constant__ TensorMap wk, const __grid_constant__ TensorMap wv,
                             const bf16* __restrict__ bq, const bf16* __restrict__ bk, const bf16* __restrict__ bv,
                             bf16* __restrict__ q, bf16* __restrict__ k, bf16* __restrict__ v, int64_t m, int64_t n_q,
                             int64_t n_kv, int64_t dim) {
#ifdef HAGGLE_SM90
    Qkv<bf16> all = {nullptr, nullptr, nullptr, bq, bk, bv, q, k, v, n_q, n_kv};
    gemm_qkv_sm90<Sm90Tile64x32>(h, wq, wk, wv, all, m, dim);
#else
    __trap();  // other chips have the tiles of gemm_qkv
#endif
}

extern "C" __global__ void __launch_bounds__(160) CLUSTER(8)
    gemm_qkv_sm90_16x32_bf16(const __grid_constant__ TensorMap h, const __grid_constant__ TensorMap wq,
                             const __grid_constant__ TensorMap wk, const __grid_constant__ TensorMap wv,
                             const bf16* __restrict__ bq, const bf16* __restrict__ bk, const bf16* __restrict__ bv,
                             bf16* __restrict__ q, bf16* __restrict__ k, bf16* __restrict__ v, int64_t m, int64_t n_q,
                             int64_t n_kv, int64_t dim) {
#ifdef HAGGLE_SM90
    Qkv<bf16> all = {nullptr, nullptr, nullptr, bq, bk, bv, q, k, v, n_q, n_kv};
    gemm_qkv_few_sm90<FewSm90Tile16x32>(h, wq, wk, wv, all, m, dim);
#else
    __trap();  // other chips have the tiles of gemm_qkv
#endif
}

extern "C" __global__ void __launch_bounds__(Gemm16x32::THREADS) CLUSTER(8)
    gemm_qkv_normed_sm90_16x32_bf16(const bf16* x, const bf16* __restrict__ w, const bf16* __restrict__ wq,
                                    const bf16* __restrict__ wk, const bf16* __restrict__ wv, const bf16* __restrict__ bq,
                                    const bf16* __restrict__ bk, const bf16* __restrict__ bv, bf16* __restrict__ q,
                                    bf16* __restrict__ k, bf16* __restrict__ v, int64_t m, int64_t n_q, int64_t n_kv,
                                    int64_t dim, float eps, int32_t vectors) {
#ifdef HAGGLE_SM90
    Qkv<bf16> all = {wq, wk, wv, bq, bk, bv, q, k, v, n_q, n_kv};
    gemm_qkv_of<SideBySide<Gemm16x32>>(Norm<bf16>{x, w, eps}, all, m, dim, vectors);
#else
    __trap();  // other chips have the tiles of gemm_qkv
#endif
}

extern "C" __global__ void __launch_bounds__(Gemm16x8::THREADS) CLUSTER(8)
    gemm_qkv_normed_sm90_16x8_bf16(const bf16* x, const bf16* __restrict__ w, const bf16* __restrict__ wq,
                                   const bf16* __restrict__ wk, const bf16* __restrict__ wv, const bf16* __restrict__ bq,
                                   const bf16* __restrict__ bk, const bf16* __restrict__ bv, bf16* __restrict__ q,
                                   bf16* __restrict__ k, bf16* __restrict__ v, int64_t m, int64_t n_q, int64_t n_kv,
                                   int64_t dim, float eps, int32_t vectors) {
#ifdef HAGGLE_SM90
    Qkv<bf16> all = {wq, wk, wv, bq, bk, bv, q, k, v, n_q, n_kv};
    gemm_qkv_of<SideBySide<Gemm16x8>>(Norm<bf16>{x, w, eps}, all, m, dim, vectors);
#else
    __trap();  // other chips have the tiles of gemm_qkv
#endif
}
