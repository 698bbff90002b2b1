// gemm_swiglu_sm90  s = silu(gate) up,   gate, up = h wg^T, h wu^T, on Hopper's copy engine and wgmma: the twin of gemm_swiglu
//
// Shapes          h [M, K]   wg, wu [N, K], all bf16, by tensor maps   gate, up [M, N] bf16, null where only s is wanted
//                 s [M, N] bf16;   "normed": x [M, K] and w [K] for h, none of them by a map
// Numerics        gate and up as gemm_nt_sm90, rounded like its store whether they are stored or not; then as swiglu_fwd.
// Parallel        the tiles of 128 x 256, and 64 x 64 for decode of tens of rows, half the columns of each matrix: of a thread's
//                 sums the first half are gate's, the second those of up on the same columns; common/gemm_sm90.cuh. Of 16 x 64
//                 for few: common/gemm_few_sm90.cuh; "normed": the tiles of gemm_swiglu, eight a cluster, each norms some of the
//                 rows for all (common/gemm_normed.cuh).
// Cost            as gemm_swiglu.
// Determinism     as gemm_nt_sm90.
// Requires        K % 8 == 0, K > 0, h, wg and wu on 16 bytes; sm_90a.
// Sass            swiglu_sm90: UTMALDG.2D.MULTICAST SYNCS.PHASECHK
// Sass            128x256: HGMMA.64x256x16.F32.BF16 USETMAXREG STG.E.128
// Sass            64x64: HGMMA.64x64x16.F32.BF16 STG.E.128
// Sass            _16x64: HMMA.16816.F32.BF16 LDSM
// Sass            normed: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128 UCGABAR_ARV UCGABAR_WAIT ST.E.128
// Sass sm_90a     sm90: PREEXIT ACQBULK
// Source          common/gemm_sm90.cuh, common/gemm_pair.cuh
// Oracle          src/ops/gemm_fused/oracle.rs
#include "common/gemm_few_sm90.cuh"
#include "common/gemm_pair.cuh"

#ifdef HAGGLE_SM90
// copy_tile of rows i0.. of h and of columns j0.. of both matrices.
template <class T>
__device__ __forceinline__ void copy_pair(const RingSm90& ring, const TensorMap& h, const TensorMap& wg, const TensorMap& wu,
                                          int64_t i0, int64_t j0, int steps) {
    Share<T::ACROSS> of_rows = share_of_rows<T>();
    Share<T::DOWN> of_columns = share_of_columns<T>();
    copy_steps<T>(
        ring, steps, 0,
        [&](bf16* s_to, uint64_t* s_full, int step) { copy_operand<false, T::M>(s_to, h, s_full, i0, step, of_rows); },
        [&](bf16* s_to, uint64_t* s_full, int step) {
            copy_operand<false, T::N / 2>(s_to, wg, s_full, j0, step, of_columns);
            copy_operand<false, T::N / 2>(s_to + T::N / 2 * GEMM_K, wu, s_full, j0, step, of_columns);
        });
}

template <class T>
__device__ __forceinline__ void gemm_swiglu_sm90(const TensorMap& h, const TensorMap& wg, const TensorMap& wu,
                                                 const Swiglu<bf16>& to, int64_t k) {
    constexpr int HALF = T::N / 2;  // columns of each matrix
    int64_t i0, j0;
    pair_tile_of_block<T>(to.m, to.n, i0, j0);
    gemm_sm90_sums<T, false, false>(
        k, [&](const RingSm90& ring, int steps) { copy_pair<T>(ring, h, wg, wu, i0, j0, steps); },
        [](int, int) { return Pack<float, 2>{}; },
        [&](float (&acc)[T::N / 8][4], bf16* s_panels) {
            auto gate = [&](int j, int r) { return two_sums(acc[j], r); };
            auto up = [&](int j, int r) { return two_sums(acc[j + HALF / 8], r); };
            auto store = [&](bf16* tensor) {
                return [&to, tensor, i0, j0](int i, int j, const bf16* s_eight) {
                    if (i0 + i < to.m) store_16_live(tensor + (i0 + i) * to.n + j0 + j, to.n - j0 - j, s_eight);
                };
            };
            if (to.gate != nullptr) {
                each_eight<HALF>(s_panels, [&](int j, int r) { return rounded<bf16>(gate(j, r)); }, store(to.gate));
                each_eight<HALF>(s_panels, [&](int j, int r) { return rounded<bf16>(up(j, r)); }, store(to.up));
            }
            each_eight<HALF>(s_panels, [&](int j, int r) { return to.of(gate(j, r), up(j, r)); }, store(to.h));
        });
}

// The same of few rows.
template <class T>
__device__ __forceinline__ void gemm_swiglu_few_sm90(const TensorMap& h, const TensorMap& wg, const TensorMap& wu,
                                                     const Swiglu<bf16>& to, int64_t k) {
    int64_t i0, j0;
    pair_tile_of_block<T>(to.m, to.n, i0, j0);
    gemm_few_sm90_sums<T, PairColumns<T>>(
        k, [&](const RingSm90& ring, int steps) { copy_pair<T>(ring, h, wg, wu, i0, j0, steps); },
        [](int, int) { return 0.0f; },
        [&](float (&acc)[T::FRAGS_M][T::FRAGS_N][4]) { put_pairs<T>(acc, to, i0, j0); });
}
#endif

extern "C" __global__ void __launch_bounds__(384, 1) CLUSTER(2)
    gemm_swiglu_sm90_128x256_bf16(const __grid_constant__ TensorMap h, const __grid_constant__ TensorMap wg,
                                  const __grid_constant__ TensorMap wu, bf16* __restrict__ gate, bf16* __restrict__ up,
                                  bf16* __restrict__ s, int64_t m, int64_t n, int64_t k) {
#ifdef HAGGLE_SM90
    gemm_swiglu_sm90<Sm90Tile128x256>(h, wg, wu, Swiglu<bf16>{gate, up, s, m, n}, k);
#else
    __trap();  // other chips have the tiles of gemm_swiglu
#endif
}

extern "C" __global__ void __launch_bounds__(160) CLUSTER(8)
    gemm_swiglu_sm90_64x64_bf16(const __grid_constant__ TensorMap h, const __grid_constant__ TensorMap wg,
                                const __grid_constant__ TensorMap wu, bf16* __restrict__ gate, bf16* __restrict__ up,
                                bf16* __restrict__ s, int64_t m, int64_t n, int64_t k) {
#ifdef HAGGLE_SM90
    gemm_swiglu_sm90<Sm90Tile64x64>(h, wg, wu, Swiglu<bf16>{gate, up, s, m, n}, k);
#else
    __trap();  // other chips have the tiles of gemm_swiglu
#endif
}

extern "C" __global__ void __launch_bounds__(160) CLUSTER(8)
    gemm_swiglu_sm90_16x64_bf16(const __grid_constant__ TensorMap h, const __grid_constant__ TensorMap wg,
                                const __grid_constant__ TensorMap wu, bf16* __restrict__ gate, bf16* __restrict__ up,
                                bf16* __restrict__ s, int64_t m, int64_t n, int64_t k) {
#ifdef HAGGLE_SM90
    gemm_swiglu_few_sm90<FewSm90Tile16x64>(h, wg, wu, Swiglu<bf16>{gate, up, s, m, n}, k);
#else
    __trap();  // other chips have the tiles of gemm_swiglu
#endif
}

extern "C" __global__ void __launch_bounds__(Gemm16x64::THREADS) CLUSTER(8)
    gemm_swiglu_normed_sm90_16x64_bf16(const bf16* x, const bf16* __restrict__ w, const bf16* __restrict__ wg,
                                       const bf16* __restrict__ wu, bf16* __restrict__ gate, bf16* __restrict__ up,
                                       bf16* __restrict__ s, int64_t m, int64_t n, int64_t k, float eps, int32_t vectors) {
#ifdef HAGGLE_SM90
    gemm_swiglu_of<SideBySide<Gemm16x64>>(Norm<bf16>{x, w, eps}, wg, wu, Swiglu<bf16>{gate, up, s, m, n}, k, vectors);
#else
    __trap();  // other chips have the tiles of gemm_swiglu
#endif
}

extern "C" __global__ void __launch_bounds__(Gemm16x16::THREADS) CLUSTER(8)
    gemm_swiglu_normed_sm90_16x16_bf16(const bf16* x, const bf16* __restrict__ w, const bf16* __restrict__ wg,
                                       const bf16* __restrict__ wu, bf16* __restrict__ gate, bf16* __restrict__ up,
                                       bf16* __restrict__ s, int64_t m, int64_t n, int64_t k, float eps, int32_t vectors) {
#ifdef HAGGLE_SM90
    gemm_swiglu_of<SideBySide<Gemm16x16>>(Norm<bf16>{x, w, eps}, wg, wu, Swiglu<bf16>{gate, up, s, m, n}, k, vectors);
#else
    __trap();  // other chips have the tiles of gemm_swiglu
#endif
}
