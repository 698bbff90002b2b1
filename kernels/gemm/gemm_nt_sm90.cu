// gemm_nt_sm90    c = a b^T or c += a b^T, on Hopper's wgmma: the twin of gemm_nt_bf16
//
// Shapes          a [M, K]   b [N, K]   c [M, N]; all bf16
// Numerics        wgmma m64n128k16 into f32 over K in ascending order, from zero or from c; one rounding, at the store.
// Parallel        tiles of 128 x 128, a warpgroup 64 rows; three slots of 64 steps by cp.async.
// Cost            as gemm_nt.
// Determinism     as gemm_nt: one order of K for every M and N. Whether its bits are those of mma.sync must be measured.
// Requires        K % 8 == 0, a and b on 16 bytes; sm_90a.
// Status          has not run on hardware: no op launches it. Has the bits of gemm_nt on the emulator (tests/emu_sm90.rs).
// Sass            sm90: HGMMA.64x128x16.F32.BF16 LDGSTS.E.BYPASS.128
// Source          common/gemm_bf16.cuh; PTX ISA 9.0, "Asynchronous warpgroup level matrix instructions".
// Oracle          src/oracle/gemm.rs
#include "common/gemm_bf16.cuh"
#include "common/ptx_sm90.cuh"

#ifdef HAGGLE_SM90

using Tile = GemmTile<128, 128, 8, 1, 3>;  // a warp's fragments: 16 rows of 128 columns

__device__ __forceinline__ void gemm_nt_sm90(const bf16* __restrict__ a,  // [M, K]
                                             const bf16* __restrict__ b,  // [N, K]
                                             bf16* c,                     // [M, N], = or +=
                                             int64_t m, int64_t n, int64_t k, int32_t add) {
    SHARED_DYNAMIC(bf16, s_dynamic);
    // The swizzle of a descriptor counts from a multiple of 1024 bytes.
    bf16* s_ring = s_dynamic + (1024 - shared_address(s_dynamic) % 1024) % 1024 / sizeof(bf16);
    int64_t i0, j0;
    tile_of_block<Tile>(m, n, i0, j0);
    float acc[1][Tile::FRAGS_N][4];
    each_element<Tile>(acc, [&](int i, int j, float& x) {
        x = add && i0 + i < m && j0 + j < n ? to_f32(c[(i0 + i) * n + j0 + j]) : 0.0f;
    });
    int steps = (int)ceil_div(k, GEMM_K);
    auto load = [&](int step) {
        bf16* s_slot = s_ring + step % Tile::STAGES * Tile::SLOT;
        if (step < steps) {
            int64_t q0 = (int64_t)step * GEMM_K;
            OperandTile<false, Tile::M>::load<Tile::THREADS>(s_slot, a, i0, m, q0, k, true);
            OperandTile<false, Tile::N>::load<Tile::THREADS>(s_slot + Tile::M * GEMM_K, b, j0, n, q0, k, true);
        }
        cp_async_commit();  // an empty group keeps the count
    };
#pragma unroll
    for (int step = 0; step < Tile::STAGES - 1; step++) load(step);
    int warpgroup = threadIdx.x / 128;
    for (int step = 0; step < steps; step++) {
        cp_async_wait<Tile::STAGES - 2>();
        fence_proxy_async();
        __syncthreads();  // this step's slot is written, for the tensor cores too; the last step's is read
        load(step + Tile::STAGES - 1);
        const bf16* s_a = s_ring + step % Tile::STAGES * Tile::SLOT;
        uint64_t x = matrix_descriptor(s_a + warpgroup * 64 * GEMM_K), y = matrix_descriptor(s_a + Tile::M * GEMM_K);
        wgmma_fence();
#pragma unroll
        for (int q = 0; q < GEMM_K / 16; q++) wgmma_k16_bf16<128, false, false>(acc[0], x + 2 * q, y + 2 * q, 1);
        wgmma_commit_group();
        wgmma_wait_group<0>();  // the slot is read
    }
    cp_async_wait<0>();  // nothing is under way when the block ends
    each_element<Tile>(acc, [&](int i, int j, float& x) {
        if (i0 + i < m && j0 + j < n) c[(i0 + i) * n + j0 + j] = from_f32<bf16>(x);
    });
}

#endif

extern "C" __global__ void __launch_bounds__(256)
    gemm_nt_sm90_bf16(const bf16* __restrict__ a, const bf16* __restrict__ b, bf16* c, int64_t m, int64_t n, int64_t k,
                      int32_t add) {
#ifdef HAGGLE_SM90
    gemm_nt_sm90(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have gemm_nt_bf16
#endif
}
