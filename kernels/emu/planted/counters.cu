// Kernels whose traffic is known by hand, right and wasteful, for tests/emu/counters.rs. Never compiled for a GPU.
#include "common/shared.cuh"
#include "common/types.cuh"

// y [32 blocks'] = every `stride`-th of x: a stride of two reads twice the sectors.
extern "C" __global__ void __launch_bounds__(64) planted_stride(const float* __restrict__ x, float* y, int32_t stride) {
    int64_t i = static_cast<int64_t>(blockIdx.x) * 64 + threadIdx.x;
    y[i] = x[i * stride];
}

// The same in vectors of 16 bytes.
extern "C" __global__ void __launch_bounds__(64) planted_vectors(const float4* __restrict__ x, float4* y) {
    int64_t i = static_cast<int64_t>(blockIdx.x) * 64 + threadIdx.x;
    y[i] = x[i];
}

// Each lane of a warp reads so many of its line as its number says, and every `times` again.
extern "C" __global__ void __launch_bounds__(32) planted_reread(const volatile float* x, float* y, int32_t times, int32_t ragged) {
    int i = threadIdx.x;
    float sum = 0.0f;
    int n = ragged ? i % 2 * times : times;
    for (int t = 0; t < n; t++) sum += x[i];
    y[i] = sum;
}

// Lanes `stride` words apart in shared memory: 32 is one bank for all of them.
extern "C" __global__ void __launch_bounds__(32) planted_conflict(float* y, int32_t stride) {
    __shared__ alignas(128) float s_x[32 * 32];
    int i = threadIdx.x;
    s_x[i * stride] = static_cast<float>(i);
    __syncthreads();
    y[i] = s_x[i * stride];
}

// Every other lane stores into shared memory, its neighbour into y: one place of the code, two memories.
extern "C" __global__ void __launch_bounds__(32) planted_two_memories(float* y) {
    __shared__ alignas(128) float s_x[32];
    int i = threadIdx.x;
    float* to = i % 2 ? y + i : s_x + i;
    *to = static_cast<float>(i);
    __syncthreads();
    if (i % 2 == 0) y[i] = s_x[i];
}

// Vectors of 16 bytes side by side, then eight rows `row_bytes` apart by ldmatrix, then a product.
extern "C" __global__ void __launch_bounds__(32) planted_matrix(float* y, int32_t row_bytes) {
    __shared__ alignas(128) uint4 s_x[64];
    int i = threadIdx.x;
    s_x[i] = make_uint4(0, 0, 0, 0);
    s_x[i + 32] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    uint32_t a[4] = {0, 0, 0, 0}, b[2] = {0, 0};
    emu::ldmatrix_x1(a, reinterpret_cast<const char*>(s_x) + i % 8 * row_bytes);
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    emu::mma_m16n8k16_bf16(sum, a, b, sum);
    y[i] = sum[0];
}
