// Kernels that are wrong about barriers and lanes, for tests/emu/detectors.rs. Never compiled for a GPU.
#include "common/shared.cuh"
#include "common/types.cuh"

// Each thread reads what another has written, with no barrier between.
extern "C" __global__ void __launch_bounds__(256) planted_missing_barrier(const float* __restrict__ x, float* y) {
    __shared__ float s_x[256];
    int i = threadIdx.x, n = blockDim.x;
    s_x[i] = x[i];
    y[i] = s_x[(i + n - 1) % n];
}

// The same, right: what the detectors must not report.
extern "C" __global__ void __launch_bounds__(256) planted_right(const float* __restrict__ x, float* y) {
    __shared__ float s_x[256];
    int i = threadIdx.x, n = blockDim.x;
    for (int round = 0; round < 3; ++round) {
        s_x[i] = x[i];
        __syncthreads();
        y[i] = s_x[(i + n - 1) % n];
        __syncthreads();
    }
}

// The next round's writes overtake this round's reads.
extern "C" __global__ void __launch_bounds__(256) planted_missing_second_barrier(const float* __restrict__ x, float* y) {
    __shared__ float s_x[256];
    int i = threadIdx.x, n = blockDim.x;
    for (int round = 0; round < 3; ++round) {
        s_x[i] = x[i] * static_cast<float>(round + 1);
        __syncthreads();
        y[i] = s_x[(i + 1) % n] - (round > 0 ? y[i] : 0.0f);
    }
}

// Lanes of one warp exchange through shared memory without __syncwarp.
extern "C" __global__ void __launch_bounds__(32) planted_missing_syncwarp(const float* __restrict__ x, float* y, int32_t right) {
    __shared__ float s_x[32];
    int i = threadIdx.x;
    s_x[i] = x[i];
    if (right) __syncwarp();
    y[i] = s_x[(i + 31) % 32];
}

// Some threads return before the barrier.
extern "C" __global__ void __launch_bounds__(256) planted_divergent_barrier(float* y, int32_t n) {
    int i = threadIdx.x;
    if (i >= n) return;
    __syncthreads();
    y[i] = 1.0f;
}

// Two halves of the block wait at two barriers.
extern "C" __global__ void __launch_bounds__(256) planted_two_barriers(float* y) {
    int i = threadIdx.x;
    if (i % 64 < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    y[i] = 1.0f;
}

// One lane of the mask has returned.
extern "C" __global__ void __launch_bounds__(256) planted_divergent_shuffle(float* y) {
    int i = threadIdx.x;
    if (i == 37) return;
    y[i] = __shfl_xor_sync(0xffffffffu, y[i], 1);
}

// Lanes of one mask are at two operations.
extern "C" __global__ void __launch_bounds__(32) planted_two_operations(float* y) {
    int i = threadIdx.x;
    if (i < 16) {
        y[i] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
    } else {
        y[i] = static_cast<float>(__ballot_sync(0xffffffffu, 1));
    }
}

// Half the block waits at a barrier, one lane of the other half for a warp that is at the barrier.
extern "C" __global__ void __launch_bounds__(64) planted_deadlock(float* y) {
    int i = threadIdx.x;
    if (i == 40) {
        __syncwarp();
    } else {
        __syncthreads();
    }
    y[i] = 1.0f;
}
