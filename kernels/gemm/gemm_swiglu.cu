// gemm_swiglu     s = silu(gate) up,   gate, up = h wg^T, h wu^T;   "normed": h = rmsnorm(x) w, made on the way
//
// Shapes          h [M, K], or x [M, K] and w [K]   wg, wu [N, K]   gate, up [M, N], null where only s is wanted   s [M, N];
//                 all f32 or all bf16
// Numerics        gate and up as gemm_nt, rounded like its store whether they are stored or not; then as swiglu_fwd. h as
//                 rmsnorm_fwd, rounded like its store.
// Parallel        tiles of gemm_nt, of half as many columns of each matrix (common/gemm_pair.cuh). "normed", for few rows: each
//                 block norms its own again, while the weights are on their way (common/gemm_normed.cuh).
//                 Which: src/ops/gemm_fused/gpu.rs.
// Cost            4 MNK FLOP; reads MK + 2NK elements at least, writes MN, with gate and up 3MN.
// Determinism     an element's bits are those of rmsnorm_fwd, gemm_nt and swiglu_fwd one after another.
// Requires        normed: a tile's rows, and the ring, fit into shared memory.
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Sass sm_90a     gemm: PREEXIT ACQBULK
// Sass sm_90a     swiglu_16x64: UBLKPF.L2
// Source          common/gemm_pair.cuh, common/gemm_normed.cuh
// Oracle          src/ops/gemm_fused/oracle.rs
#include "common/gemm_normed.cuh"
#include "common/gemm_pair.cuh"

// Block (x, y) has rows x BM.. and columns y BN.. of both; gate first, then up.
template <int BM, int BN, typename Of>
__device__ __forceinline__ void gemm_swiglu_tile(Of of, const float* __restrict__ wg, const float* __restrict__ wu,
                                                 const Swiglu<float>& to, int64_t k) {
    int64_t i0 = (int64_t)blockIdx.x * BM, j0 = (int64_t)blockIdx.y * BN;
    float gate[4][4] = {}, up[4][4] = {};
    gemm_f32_sums<false, false, BM, BN>(gate, of, wg, to.m, to.n, k, i0, j0);
    gemm_f32_sums<false, false, BM, BN>(up, of, wu, to.m, to.n, k, i0, j0);
    int ti = threadIdx.x / (BN / 4) * 4, tj = threadIdx.x % (BN / 4) * 4;
#pragma unroll
    for (int i = 0; i < 4; i++) to.put(i0 + ti + i, j0 + tj, four(gate[i]), four(up[i]));
}

extern "C" __global__ void __launch_bounds__(256)
    gemm_swiglu_f32(const float* h, const float* __restrict__ wg, const float* __restrict__ wu,
                    float* __restrict__ gate, float* __restrict__ up, float* __restrict__ s, int64_t m, int64_t n,
                    int64_t k) {
    await_predecessors();
    AsIs<false> rows = {h, (int64_t)blockIdx.x * 64, m, k};
    gemm_swiglu_tile<64, 64>(rows, wg, wu, Swiglu<float>{gate, up, s, m, n}, k);
}

extern "C" __global__ void __launch_bounds__(64)
    gemm_swiglu_normed_f32(const float* x, const float* __restrict__ w, const float* __restrict__ wg,
                           const float* __restrict__ wu, float* __restrict__ gate, float* __restrict__ up,
                           float* __restrict__ s, int64_t m, int64_t n, int64_t k, float eps) {
    NormedF32 rows = norm_rows<16, 64>(Norm<float>{x, w, eps}, (int64_t)blockIdx.x * 16, m, k);
    gemm_swiglu_tile<16, 64>(rows, wg, wu, Swiglu<float>{gate, up, s, m, n}, k);
}

extern "C" __global__ void __launch_bounds__(Gemm128x128::THREADS, 2)
    gemm_swiglu_128x128_bf16(const bf16* h, const bf16* __restrict__ wg, const bf16* __restrict__ wu,
                             bf16* __restrict__ gate, bf16* __restrict__ up, bf16* __restrict__ s, int64_t m, int64_t n,
                             int64_t k, int32_t vectors) {
    gemm_swiglu_of<Gemm128x128>(h, wg, wu, Swiglu<bf16>{gate, up, s, m, n}, k, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm64x64::THREADS)
    gemm_swiglu_64x64_bf16(const bf16* h, const bf16* __restrict__ wg, const bf16* __restrict__ wu,
                           bf16* __restrict__ gate, bf16* __restrict__ up, bf16* __restrict__ s, int64_t m, int64_t n,
                           int64_t k, int32_t vectors) {
    gemm_swiglu_of<Gemm64x64>(h, wg, wu, Swiglu<bf16>{gate, up, s, m, n}, k, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm64x32::THREADS)
    gemm_swiglu_64x32_bf16(const bf16* h, const bf16* __restrict__ wg, const bf16* __restrict__ wu,
                           bf16* __restrict__ gate, bf16* __restrict__ up, bf16* __restrict__ s, int64_t m, int64_t n,
                           int64_t k, int32_t vectors) {
    gemm_swiglu_of<Gemm64x32>(h, wg, wu, Swiglu<bf16>{gate, up, s, m, n}, k, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm16x64::THREADS)
    gemm_swiglu_16x64_bf16(const bf16* h, const bf16* __restrict__ wg, const bf16* __restrict__ wu,
                           bf16* __restrict__ gate, bf16* __restrict__ up, bf16* __restrict__ s, int64_t m, int64_t n,
                           int64_t k, int32_t vectors) {
    gemm_swiglu_of<Gemm16x64>(h, wg, wu, Swiglu<bf16>{gate, up, s, m, n}, k, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm16x64::THREADS)
    gemm_swiglu_normed_16x64_bf16(const bf16* x, const bf16* __restrict__ w, const bf16* __restrict__ wg,
                                  const bf16* __restrict__ wu, bf16* __restrict__ gate, bf16* __restrict__ up,
                                  bf16* __restrict__ s, int64_t m, int64_t n, int64_t k, float eps, int32_t vectors) {
    gemm_swiglu_of<Gemm16x64>(Norm<bf16>{x, w, eps}, wg, wu, Swiglu<bf16>{gate, up, s, m, n}, k, vectors);
}

extern "C" __global__ void __launch_bounds__(Gemm16x16::THREADS)
    gemm_swiglu_normed_16x16_bf16(const bf16* x, const bf16* __restrict__ w, const bf16* __restrict__ wg,
                                  const bf16* __restrict__ wu, bf16* __restrict__ gate, bf16* __restrict__ up,
                                  bf16* __restrict__ s, int64_t m, int64_t n, int64_t k, float eps, int32_t vectors) {
    gemm_swiglu_of<Gemm16x16>(Norm<bf16>{x, w, eps}, wg, wu, Swiglu<bf16>{gate, up, s, m, n}, k, vectors);
}
