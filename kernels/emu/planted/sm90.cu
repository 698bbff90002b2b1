// Kernels that are wrong about Hopper's instructions, for tests/emu/sm90.rs. Never compiled for a GPU. `fault` says which
// line is wrong; 0 is right.
#include "common/ptx_sm90.cuh"
#include "common/shared.cuh"

// One tile of a and of b come by the copy engine, y [64, 64] = a b^T; a, b [64, 64].
extern "C" __global__ void __launch_bounds__(128)
    planted_sm90(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* y, int32_t fault) {
    SHARED_DYNAMIC(uint16_t, s_dynamic);
    uint16_t *s_a = align_1024(s_dynamic), *s_b = s_a + 64 * 64;
    __shared__ uint64_t s_bar[1];
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, column = lane % 4 * 2;
    if (threadIdx.x == 0 && fault != 1) {
        mbarrier_init(s_bar, fault == 2 ? 2 : 1);
        if (fault != 3) fence_mbarrier_init();
    }
    if (fault != 4) __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect_tx(s_bar, fault == 5 ? 3 * 8192 : fault == 6 ? 8192 : 2 * 8192);
        if (fault == 7) mbarrier_arrive(s_bar);
        cp_async_bulk_tensor_2d(fault == 8 ? s_a + 8 : s_a, &a, s_bar, 0, 0);
        cp_async_bulk_tensor_2d(s_b, &b, s_bar, 0, 0);
    }
    if (fault == 9) return;
    if (fault != 10) mbarrier_wait(s_bar, 0);
    float acc[8][4] = {};
    uint64_t x = matrix_descriptor(s_a), y_ = matrix_descriptor(s_b);
    if (fault == 11) x ^= static_cast<uint64_t>(3) << 62;
    if (fault != 12) wgmma_fence();
    for (int q = 0; q < 4; q++) {
        if (fault == 13 && threadIdx.x >= 96 && q == 3) continue;
        wgmma_k16_bf16<64, false, false>(acc, x + 2 * q, y_ + 2 * q, 1);
    }
    wgmma_commit_group();
    if (fault == 14) {
        __syncthreads();
        s_b[threadIdx.x] = 0;
        __syncthreads();
    }
    if (fault != 15 && fault != 16) wgmma_wait_group<0>();
    for (int i = 0; i < 32; i++) y[(row + i % 4 / 2 * 8) * 64 + i / 4 * 8 + column + i % 2] = acc[i / 4][i % 4];
    if (fault == 15) wgmma_wait_group<0>();
}

// y [64, 64] = a a^T, written to shared memory by the threads, without fence when `right` is 0.
extern "C" __global__ void __launch_bounds__(128) planted_unfenced(const uint16_t* a, float* y, int32_t right) {
    SHARED_DYNAMIC(uint16_t, s_dynamic);
    uint16_t* s_a = align_1024(s_dynamic);
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, column = lane % 4 * 2;
    for (int i = threadIdx.x; i < 64 * 64; i += 128) s_a[i / 64 * 64 + (i % 64 / 8 ^ i / 64 % 8) * 8 + i % 8] = a[i];
    if (right) fence_proxy_async();
    __syncthreads();
    float acc[8][4] = {};
    uint64_t x = matrix_descriptor(s_a);
    wgmma_fence();
    for (int q = 0; q < 4; q++) wgmma_k16_bf16<64, false, false>(acc, x + 2 * q, x + 2 * q, 1);
    wgmma_commit_group();
    wgmma_wait_group<0>();
    for (int i = 0; i < 32; i++) y[(row + i % 4 / 2 * 8) * 64 + i / 4 * 8 + column + i % 2] = acc[i / 4][i % 4];
}
