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
__device__ __forceinline__ void gemm_swiglu_tile(const float* a, const float* __restrict__ wg,
                                                const float* __restrict__ wu, const Swiglu<float>& to, int64_t k, Of of) {
    await_predecessors();
    int64_t i0 = (int64_t)blockIdx.x * BM, j0 = (int64_t)blockIdx.y * BN;
    float gate[4][4] = {}, up[4][4] = {};
    gemm_f32_sums<false, false, BM, BN>(gate, a, wg, to.m, to.n, k, i0, j0, of);
    gemm_f32_sums<false, false, BM, BN>(up, a, wu, to.m, to.n, k, i0, j0, of);
    int ti = threadIdx.x / (BN / 4) * 4, tj = threadIdx.x % (BN / 4) * 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float(&g)[4] = gate[i], (&u)[4] = up[i];
        to.put(i0 + ti + i, j0 + tj, Pack<float, 4>{{g[0], g[1], g[2], g[3]}}, Pack<float, 4>{{u[0], u[1], u[2], u[3]}});
    }
}

template <class Tile, class Rows>
__device__ __forceinline__ void gemm_swiglu_bf16(Rows& rows, const bf16* __restrict__ wg, const bf16* __restrict__ wu,
                                                 const Swiglu<bf16>& to, bf16* s_ring, int64_t k, int64_t i0, int64_t j0,
                                                 int32_t vectors) {
    float acc[Tile::FRAGS_M][Tile::FRAGS_N][4];
    PairColumns<Tile> columns(wg, wu, j0, to.n, k);
    if (!gemm_bf16_sums<Tile>(acc, rows, columns, s_ring, k, vectors, [](int, int) { return 0.0f; })) return;
    each_pair<Tile>(acc, [&](int i, int j, const Pack<float, 2>& gate, const Pack<float, 2>& up) {
        to.put(i0 + i, j0 + j, gate, up);
    });
}

// First row and column, of each matrix, of this block's tile.
template <class Tile>
__device__ __forceinline__ void pair_tile_of_block(int64_t m, int64_t n, int64_t& i0, int64_t& j0) {
    tile_of_block<Tile>(m, 2 * n, i0, j0);
    j0 /= 2;
}

template <class Tile>
__device__ __forceinline__ void gemm_swiglu_of(const bf16* h, const bf16* __restrict__ wg,
                                               const bf16* __restrict__ wu, const Swiglu<bf16>& to, int64_t k,
                                               int32_t vectors) {
    SHARED_DYNAMIC(bf16, s_ring);
    int64_t i0, j0;
    pair_tile_of_block<Tile>(to.m, to.n, i0, j0);
    RingRows<Tile, false> rows(h, i0, to.m, k);
    gemm_swiglu_bf16<Tile>(rows, wg, wu, to, s_ring, k, i0, j0, vectors);
}

template <class Tile>
__device__ __forceinline__ void gemm_swiglu_of(const Norm<bf16>& norm, const bf16* __restrict__ wg,
                                               const bf16* __restrict__ wu, const Swiglu<bf16>& to, int64_t k,
                                               int32_t vectors) {
    SHARED_DYNAMIC(bf16, s_ring);  // [STAGES]: a tile of columns; then the rows
    int64_t i0, j0;
    pair_tile_of_block<Tile>(to.m, to.n, i0, j0);
    NormedRows<Tile> rows(norm, s_ring + Tile::STAGES * Tile::N * GEMM_K, i0, to.m, k, vectors);
    gemm_swiglu_bf16<Tile>(rows, wg, wu, to, s_ring, k, i0, j0, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    gemm_swiglu_f32(const float* h, const float* __restrict__ wg, const float* __restrict__ wu,
                    float* __restrict__ gate, float* __restrict__ up, float* __restrict__ s, int64_t m, int64_t n,
                    int64_t k) {
    gemm_swiglu_tile<64, 64>(h, wg, wu, Swiglu<float>{gate, up, s, m, n}, k, [](float x, int, int64_t) { return x; });
}

extern "C" __global__ void __launch_bounds__(64)
    gemm_swiglu_normed_f32(const float* x, const float* __restrict__ w, const float* __restrict__ wg,
                           const float* __restrict__ wu, float* __restrict__ gate, float* __restrict__ up,
                           float* __restrict__ s, int64_t m, int64_t n, int64_t k, float eps) {
    __shared__ float s_rstd[16];
    tile_rstd<16, 64>(s_rstd, Norm<float>{x, w, eps}, (int64_t)blockIdx.x * 16, m, k);
    gemm_swiglu_tile<16, 64>(x, wg, wu, Swiglu<float>{gate, up, s, m, n}, k,
                            [&](float x, int i, int64_t step) { return x * s_rstd[i] * w[step]; });
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
