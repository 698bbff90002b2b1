// gemm_nt_sm90    c = a b^T or c += a b^T, on Hopper's copy engine and wgmma: the twin of gemm_nt_bf16
//
// Shapes          a [M, K]   b [N, K], both bf16, by tensor maps with boxes of 64 x 128   c [M, N] bf16 or f32
// Numerics        wgmma m64n256k16 into f32 over K in ascending order, from zero or from c; one rounding, at the store.
// Parallel        tiles of 128 x 256: two warpgroups multiply 64 rows each, a third has one thread that copies. Four slots
//                 of 64 steps; an mbarrier says when a slot is full, another when all eight warps have read it.
// Cost            as gemm_nt.
// Determinism     one order of K for every M and N; on the emulator the bits of gemm_nt. Whether wgmma has the bits of
//                 mma.sync on hardware must be measured.
// Requires        K % 8 == 0, K > 0, a and b on 16 bytes; sm_90a.
// Status          has not run on hardware: gemm_nt launches it only with HAGGLE_SM90=1. Has run on the emulator.
// Sass            sm90: HGMMA.64x256x16.F32.BF16 UTMALDG.2D SYNCS.PHASECHK USETMAXREG
// Source          PTX ISA 9.0, "Asynchronous warpgroup level matrix instructions"; common/gemm_bf16.cuh for the order.
// Oracle          src/oracle/gemm.rs
#include "common/gemm_bf16.cuh"
#include "common/ptx_sm90.cuh"

#ifdef HAGGLE_SM90

struct TileSm90 {
    static constexpr int M = 128, N = 256, STAGES = 4, SLOT = (M + N) * GEMM_K;
};

// Calls f(row, column, x) for each of this thread's accumulators; rows and columns count from the tile's first.
template <typename F>
__device__ __forceinline__ void each_sum(float (&acc)[TileSm90::N / 8][4], F f) {
    int i0 = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, j0 = threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < TileSm90::N / 8; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) f(i0 + e / 2 * 8, j * 8 + j0 + e % 2, acc[j][e]);
    }
}

template <typename C>
__device__ __forceinline__ void gemm_nt_sm90(const TensorMap& a,  // [M, K]
                                             const TensorMap& b,  // [N, K]
                                             C* c,                // [M, N], = or +=
                                             int64_t m, int64_t n, int64_t k, int32_t add) {
    using T = TileSm90;
    SHARED_DYNAMIC(bf16, s_dynamic);
    __shared__ uint64_t s_full[T::STAGES];
    __shared__ uint64_t s_empty[T::STAGES];
    bf16* s_ring = align_1024(s_dynamic);  // [STAGES]: a tile of a, a tile of b
    int64_t i0, j0;
    tile_of_block<T>(m, n, i0, j0);
    int steps = (int)ceil_div(k, GEMM_K), warpgroup = threadIdx.x / 128;
    if (threadIdx.x == 0) {
#pragma unroll
        for (int slot = 0; slot < T::STAGES; slot++) {
            mbarrier_init(&s_full[slot], 1);
            mbarrier_init(&s_empty[slot], 8);
        }
        fence_mbarrier_init();
    }
    __syncthreads();  // the mbarriers are there
    if (warpgroup == 2) {
        setmaxnreg_dec<40>();
        if (threadIdx.x != 256) return;
        for (int step = 0; step < steps; step++) {
            int slot = step % T::STAGES, turn = step / T::STAGES % 2;
            bf16* s_a = s_ring + slot * T::SLOT;
            mbarrier_wait(&s_empty[slot], turn ^ 1);  // all eight warps have read what stood here
            mbarrier_arrive_expect_tx(&s_full[slot], T::SLOT * sizeof(bf16));
            cp_async_bulk_tensor_2d(s_a, &a, &s_full[slot], step * GEMM_K, (int32_t)i0);
            cp_async_bulk_tensor_2d(s_a + 128 * GEMM_K, &b, &s_full[slot], step * GEMM_K, (int32_t)j0);
            cp_async_bulk_tensor_2d(s_a + 256 * GEMM_K, &b, &s_full[slot], step * GEMM_K, (int32_t)j0 + 128);
        }
    } else {
        setmaxnreg_inc<232>();
        float acc[T::N / 8][4];
        each_sum(acc, [&](int i, int j, float& x) {
            x = add && i0 + i < m && j0 + j < n ? to_f32(c[(i0 + i) * n + j0 + j]) : 0.0f;
        });
        for (int step = 0; step < steps; step++) {
            int slot = step % T::STAGES, turn = step / T::STAGES % 2;
            const bf16* s_a = s_ring + slot * T::SLOT;
            uint64_t x = matrix_descriptor(s_a + warpgroup * 64 * GEMM_K), y = matrix_descriptor(s_a + T::M * GEMM_K);
            mbarrier_wait(&s_full[slot], turn);
            wgmma_fence();
#pragma unroll
            for (int q = 0; q < GEMM_K / 16; q++) wgmma_k16_bf16<T::N, false, false>(acc, x + 2 * q, y + 2 * q, 1);
            wgmma_commit_group();
            wgmma_wait_group<0>();
            if (threadIdx.x % 32 == 0) mbarrier_arrive(&s_empty[slot]);  // this warp has read it
        }
        each_sum(acc, [&](int i, int j, float& x) {
            if (i0 + i < m && j0 + j < n) c[(i0 + i) * n + j0 + j] = from_f32<C>(x);
        });
    }
}

#endif

extern "C" __global__ void __launch_bounds__(384, 1)
    gemm_nt_sm90_bf16(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16* c, int64_t m,
                      int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_nt_sm90(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have gemm_nt_bf16
#endif
}

extern "C" __global__ void __launch_bounds__(384, 1)
    gemm_nt_sm90_bf16_f32(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* c, int64_t m,
                          int64_t n, int64_t k, int32_t add) {
#ifdef HAGGLE_SM90
    gemm_nt_sm90(a, b, c, m, n, k, add);
#else
    __trap();  // other chips have gemm_nt_bf16_f32
#endif
}
