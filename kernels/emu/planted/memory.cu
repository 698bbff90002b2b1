// Kernels that are wrong about memory, for tests/emu/detectors.rs. Never compiled for a GPU.
#include "common/shared.cuh"
#include "common/types.cuh"

// Thread n - 1 writes one past its array.
extern "C" __global__ void __launch_bounds__(64) planted_shared_overrun(float* y, int32_t shift) {
    __shared__ float s_first[64];
    __shared__ float s_second[64];
    int i = threadIdx.x;
    float* first = s_first;
    first[i + shift] = 1.0f;
    s_second[i] = 2.0f;
    __syncthreads();
    y[i] = s_first[63 - i] + s_second[63 - i];
}

// Thread n - 1 writes one past the output.
extern "C" __global__ void __launch_bounds__(64) planted_global_overrun(float* y, int32_t shift) {
    int64_t i = static_cast<int64_t>(blockIdx.x) * 64 + threadIdx.x;
    y[i + shift] = 1.0f;
}

// Thread 0 reads before the input.
extern "C" __global__ void __launch_bounds__(64) planted_global_underread(const float* __restrict__ x, float* y) {
    int64_t i = threadIdx.x;
    y[i] = x[i - 1];
}

// Writes what it was given to read.
extern "C" __global__ void __launch_bounds__(64) planted_writes_input(const float* x, float* y) {
    int i = threadIdx.x;
    y[i] = x[i];
    const_cast<float*>(x)[i] = 0.0f;
}

// Nobody writes the upper half of the array.
extern "C" __global__ void __launch_bounds__(64) planted_uninitialised(const float* __restrict__ x, float* y) {
    SHARED_DYNAMIC(float, s_x);
    int i = threadIdx.x;
    if (i < 32) s_x[i] = x[i];
    __syncthreads();
    y[i] = s_x[i];
}

// A vector load that does not start at a multiple of its size.
extern "C" __global__ void __launch_bounds__(8) planted_misaligned(const float* __restrict__ x, float* y) {
    int i = threadIdx.x;
    float4 v = *reinterpret_cast<const float4*>(x + 4 * i + (i == 5));
    y[i] = v.x + v.w;
}

// Reads the target of a cp.async that has not been waited for; `right`: waits.
extern "C" __global__ void __launch_bounds__(32) planted_missing_wait(const float* __restrict__ x, float* y, int32_t right) {
    __shared__ alignas(16) float s_x[128];
    int i = threadIdx.x;
    emu::cp_async_16(&s_x[4 * i], x + 4 * i, 16);
    emu::cp_async_commit();
    if (right) emu::cp_async_wait<0>();
    __syncthreads();
    y[i] = s_x[127 - i];
}

// An index that leaves 32 bits.
extern "C" __global__ void __launch_bounds__(32) planted_overflow(float* y, int32_t width) {
    int row = threadIdx.x + 70000;
    y[threadIdx.x] = row * width > 0 ? 1.0f : 2.0f;
}
