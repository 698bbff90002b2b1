// Hopper's instructions, alone: for tests/emu/sm90.rs.
#include "common/ptx_sm90.cuh"
#include "common/shared.cuh"

// Box `width` x `rows` (x `planes`) at (x, y, z) of a tensor of bf16, as it lies in shared memory: out [box].
extern "C" __global__ void __launch_bounds__(32)
    probe_bulk_copy(const __grid_constant__ TensorMap map, uint16_t* out, int32_t rank, int32_t elements, int32_t x, int32_t y,
                    int32_t z) {
    SHARED_DYNAMIC(uint16_t, s_dynamic);
    uint16_t* s_box = align_1024(s_dynamic);
    __shared__ uint64_t s_bar[1];
    if (threadIdx.x == 0) {
        mbarrier_init(s_bar, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect_tx(s_bar, elements * 2);
        if (rank == 2) {
            cp_async_bulk_tensor_2d(s_box, &map, s_bar, x, y);
        } else {
            cp_async_bulk_tensor_3d(s_box, &map, s_bar, x, y, z);
        }
    }
    mbarrier_wait(s_bar, 0);
    for (int i = threadIdx.x; i < elements; i += 32) out[i] = s_box[i];
}

// Where element `at` of line `line` of a tile of lines of 64 lies.
__device__ __forceinline__ int swizzled_64(int line, int at) { return line * 64 + (at / 8 ^ line % 8) * 8 + at % 8; }

// d [64, N] = or += a [64, 64] b [64, N] in four steps of 16, in two groups; turned operands are stored K by K. b [N, 64],
// or [64, N] in panels of 64 columns. `in_registers`: a comes from registers, row by row.
template <int N, bool A_TURNED, bool B_TURNED>
__device__ __forceinline__ void multiply(const uint16_t* a, const uint16_t* b, float* d, int32_t add, int32_t in_registers) {
    SHARED_DYNAMIC(uint16_t, s_dynamic);
    uint16_t* s_a = align_1024(s_dynamic);  // [64, 64]
    uint16_t* s_b = s_a + 64 * 64;          // [N, 64], or N / 64 panels [64, 64]
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, column = lane % 4 * 2;
    for (int i = threadIdx.x; i < 64 * 64; i += 128) s_a[swizzled_64(i / 64, i % 64)] = a[i];
    for (int i = threadIdx.x; i < N * 64; i += 128) {
        int line = B_TURNED ? i / N + i % N / 64 * 64 : i / 64;
        s_b[swizzled_64(line, i % 64)] = b[i];
    }
    fence_proxy_async();
    __syncthreads();  // both operands stand in shared memory, for the tensor cores too
    float acc[N / 8][4];
    for (int i = 0; i < N / 2; i++) acc[i / 4][i % 4] = d[(row + i % 4 / 2 * 8) * N + i / 4 * 8 + column + i % 2];
    uint64_t x = matrix_descriptor(s_a), y = matrix_descriptor(s_b, 64 * 128);
    wgmma_fence();
    for (int q = 0; q < 4; q++) {
        uint64_t b_step = y + (B_TURNED ? 128 * q : 2 * q);
        if (in_registers) {
            uint32_t frag[4];
            for (int i = 0; i < 4; i++) {
                const uint16_t* at = a + (row + i % 2 * 8) * 64 + q * 16 + column + i / 2 * 8;
                frag[i] = static_cast<uint32_t>(at[0]) | static_cast<uint32_t>(at[1]) << 16;
            }
            ::emu::wgmma(N, acc[0], frag, 0, b_step, false, B_TURNED, q > 0 || add);
        } else {
            wgmma_k16_bf16<N, A_TURNED, B_TURNED>(acc, x + (A_TURNED ? 128 * q : 2 * q), b_step, q > 0 || add);
        }
        if (q % 2) wgmma_commit_group();
    }
    wgmma_wait_group<1>();
    wgmma_wait_group<0>();
    for (int i = 0; i < N / 2; i++) d[(row + i % 4 / 2 * 8) * N + i / 4 * 8 + column + i % 2] = acc[i / 4][i % 4];
}

extern "C" __global__ void __launch_bounds__(128)
    probe_wgmma(const uint16_t* a, const uint16_t* b, float* d, int32_t n, int32_t turned, int32_t add, int32_t in_registers) {
    if (n == 64 && turned == 0) multiply<64, false, false>(a, b, d, add, in_registers);
    if (n == 64 && turned == 1) multiply<64, true, false>(a, b, d, add, in_registers);
    if (n == 128 && turned == 2) multiply<128, false, true>(a, b, d, add, in_registers);
    if (n == 256 && turned == 3) multiply<256, true, true>(a, b, d, add, in_registers);
    if (n == 32 && turned == 0) multiply<32, false, false>(a, b, d, add, in_registers);
}

// A ring of two slots between a producer and a consumer warp: y [rounds, 32] = 2 x [rounds, 32].
extern "C" __global__ void __launch_bounds__(64) probe_mbarrier(const float* __restrict__ x, float* y, int32_t rounds) {
    __shared__ float s_slot[2][32];
    __shared__ uint64_t s_full[2];
    __shared__ uint64_t s_empty[2];
    int lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) mbarrier_init(&s_full[i], 32), mbarrier_init(&s_empty[i], 32);
    }
    __syncthreads();
    for (int r = 0; r < rounds; r++) {
        int slot = r % 2, turn = r / 2 % 2;
        if (threadIdx.x < 32) {
            mbarrier_wait(&s_empty[slot], turn ^ 1);
            s_slot[slot][lane] = x[r * 32 + lane];
            mbarrier_arrive(&s_full[slot]);
        } else {
            mbarrier_wait(&s_full[slot], turn);
            y[r * 32 + lane] = 2.0f * s_slot[slot][31 - lane];
            mbarrier_arrive(&s_empty[slot]);
        }
    }
}
