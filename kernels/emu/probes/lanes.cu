// What threads of a warp and of a block tell each other: for tests/emu/features.rs and benches/emu.rs.
#include "common/shared.cuh"
#include "common/types.cuh"

constexpr unsigned ALL = 0xffffffffu;

// y [16, T]: one row an operation, one column a thread.
extern "C" __global__ void __launch_bounds__(96) probe_lanes(int32_t* y) {
    int i = threadIdx.x, n = blockDim.x, row = 0;
    auto put = [&](int v) { y[row++ * n + i] = v; };
    put(__shfl_sync(ALL, i, 5));
    put(__shfl_sync(ALL, i, 5, 8));
    put(__shfl_up_sync(ALL, i, 3));
    put(__shfl_up_sync(ALL, i, 3, 8));
    put(__shfl_down_sync(ALL, i, 3));
    put(__shfl_down_sync(ALL, i, 3, 16));
    put(__shfl_xor_sync(ALL, i, 17));
    put(static_cast<int>(__ballot_sync(ALL, i % 3 == 0)));
    put(__any_sync(ALL, i == 40));
    put(__all_sync(ALL, i < 64));
    put(__syncthreads_count(i % 5 == 0));
    put(__syncthreads_and(i < 95));
    put(__syncthreads_or(i == 17));
    put(static_cast<int>(__match_any_sync(ALL, i % 4)));
    // Two halves of a warp apart, each with its own mask.
    unsigned half = i % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
    put(i % 32 < 16 ? __shfl_xor_sync(half, i, 1) : __shfl_xor_sync(half, 2 * i, 1));
    put(static_cast<int>(__shfl_xor_sync(ALL, static_cast<long long>(i) << 33, 1) >> 33));
}

// out [8]: atomics of all threads of all blocks, on global and on shared memory.
extern "C" __global__ void __launch_bounds__(128) probe_atomics(int32_t* out, float* sum) {
    __shared__ unsigned int s_count;
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x == 0) s_count = 0;
    __syncthreads();
    atomicAdd(&s_count, 2u);
    atomicAdd(&out[0], 1);
    atomicMax(&out[1], i);
    atomicMin(&out[2], -i);
    atomicCAS(&out[3], 0, 7);
    atomicOr(&out[4], 1 << (i % 20));
    atomicAdd(sum, 0.5f);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(&out[5], static_cast<int>(s_count));
}

// Where each thread thinks it is: out [blocks, threads], three-dimensional both.
extern "C" __global__ void __launch_bounds__(64) probe_indices(int32_t* out) {
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    int threads = blockDim.x * blockDim.y * blockDim.z;
    out[block * threads + thread] = block * 1000 + thread;
}

// Each thread passes `rounds` barriers.
extern "C" __global__ void __launch_bounds__(1024) probe_barriers(int32_t* out, int32_t rounds) {
    for (int i = 0; i < rounds; ++i) __syncthreads();
    if (threadIdx.x == 0) out[blockIdx.x] = rounds;
}

// Each lane adds up its warp `rounds` times.
extern "C" __global__ void __launch_bounds__(1024) probe_shuffles(float* out, int32_t rounds) {
    float x = 1.0f;
    for (int i = 0; i < rounds; ++i) x += 0.5f * __shfl_xor_sync(ALL, x, 1 << (i % 5)) - 0.5f * x;
    out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}

// No thread waits: y [blocks * threads] += chain of `rounds` multiply-adds.
extern "C" __global__ void __launch_bounds__(1024) probe_threads(float* y, int32_t rounds) {
    int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    float x = y[i];
    for (int r = 0; r < rounds; ++r) x = fmaf(x, 0.999f, 0.001f);
    y[i] = x;
}
