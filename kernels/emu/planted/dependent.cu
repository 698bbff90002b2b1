// Kernels that are launched before the launches before them have ended, for tests/emu/dependent.rs: what they must not do before
// they wait. Never compiled for a GPU. `fault` says which line is wrong; 0 is right.
#include "common/dependent.cuh"
#include "common/ptx_sm90.cuh"
#include "common/shared.cuh"

// y = x + w, where a launch before makes x, and w has stood all the time.
extern "C" __global__ void __launch_bounds__(64) planted_dependent(const float* x, const float* w, float* y, int32_t fault) {
    __shared__ alignas(16) float s_x[256];
    int i = threadIdx.x;
    int64_t at = static_cast<int64_t>(blockIdx.x) * 64 + i;
    float weight = w[at], early = fault == 1 && at == 70 ? x[at] : 0.0f;
    if (fault == 2 && at == 70) y[at] = 0.0f;
    if (fault == 3) emu::cp_async_16(&s_x[4 * i], x + at / 4 * 4, 16);
    if (fault == 4 && at == 70) y[at] = y[at] + 1.0f;
    if (fault != 5) await_predecessors();
    if (fault != 3) emu::cp_async_16(&s_x[4 * i], x + at / 4 * 4, 16);
    emu::cp_async_commit();
    emu::cp_async_wait<0>();
    y[at] = s_x[4 * i + i % 4] + weight + 0.0f * early;
}

// One thread waits (fault 1): what the others do is wrong where they read what it waits for. None does (2).
extern "C" __global__ void __launch_bounds__(64) planted_one_waits(const float* x, float* y, int32_t fault) {
    int i = threadIdx.x;
    if (fault == 2) return;
    if (i == 0 || fault == 0) griddepcontrol_wait();
    __syncthreads();
    y[i] = x[i];
}

// y [64, 64] = the tile of x that the copy engine brings.
extern "C" __global__ void __launch_bounds__(32)
    planted_dependent_sm90(const __grid_constant__ TensorMap x, uint16_t* y, int32_t fault) {
    SHARED_DYNAMIC(uint16_t, s_dynamic);
    uint16_t* s_x = align_1024(s_dynamic);
    __shared__ uint64_t s_bar[1];
    if (threadIdx.x == 0) {
        mbarrier_init(s_bar, 1);
        fence_mbarrier_init();
        if (fault != 1) griddepcontrol_wait();
        mbarrier_arrive_expect_tx(s_bar, 8192);
        cp_async_bulk_tensor_2d(s_x, &x, s_bar, 0, 0);
    }
    __syncthreads();
    mbarrier_wait(s_bar, 0);
    griddepcontrol_wait();
    for (int i = threadIdx.x; i < 64 * 64; i += 32) y[i] = s_x[i];
}

// What a launch before makes, taken for constant.
extern "C" __global__ void __launch_bounds__(64) planted_restricted(const float* __restrict__ x, float* __restrict__ y) {
    await_predecessors();
    int i = threadIdx.x;
    y[i] = x[i];
}
