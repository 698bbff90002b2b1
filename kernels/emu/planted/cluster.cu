// Kernels that are wrong about clusters, for tests/emu/cluster.rs. Never compiled for a GPU.
#include "common/cluster.cuh"
#include "common/shared.cuh"

enum Fault { NONE, NOT_BEGUN, NOT_WRITTEN, OVERWRITTEN, LEFT, ENDED };

// y [blocks, threads]: each thread reads its like in the next block; what goes wrong says `fault`.
extern "C" __global__ void __launch_bounds__(64) CLUSTER(4) planted_cluster(int32_t* y, int32_t fault) {
    __shared__ int32_t s_x[64];
    int i = threadIdx.x, rank = (int)cluster_ctarank();
    s_x[i] = -1;
    if (fault != NOT_BEGUN) barrier_cluster();
    s_x[i] = rank;
    if (fault == LEFT && rank == 2) return;
    if (fault != NOT_WRITTEN && fault != NOT_BEGUN) barrier_cluster();
    int32_t x = *mapa(&s_x[i], (uint32_t)((rank + 1) % 4));
    if (fault == OVERWRITTEN) s_x[i] = -1;
    y[blockIdx.x * blockDim.x + i] = x;
    if (fault != ENDED) barrier_cluster();
}

enum MulticastFault { RIGHT, NO_MEETING, NO_SUCH_BLOCK, NOT_BROUGHT, HAS_ENDED, ONE_MORE, BROUGHT_TO_ENDED, ENDED_BEFORE };

// y [blocks, 64, 64] = x [64, 64], swizzled: each of two blocks brings half of the lines to both, and says when it has read them.
extern "C" __global__ void __launch_bounds__(64) CLUSTER(2)
    planted_multicast(const __grid_constant__ TensorMap x, uint16_t* y, int32_t fault) {
    SHARED_DYNAMIC(uint16_t, s_dynamic);
    __shared__ uint64_t s_bars[2];  // all is there, all have read it
    uint16_t* s_x = align_1024(s_dynamic);
    int rank = (int)cluster_ctarank();
    if (threadIdx.x == 0) {
        mbarrier_init(&s_bars[0], 1);
        mbarrier_init(&s_bars[1], 2);
        fence_mbarrier_init();
    }
    if (fault == NO_MEETING) __syncthreads();
    if (fault != NO_MEETING) barrier_cluster_relaxed();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect_tx(&s_bars[0], 64 * 64 * sizeof(uint16_t));
        uint16_t mask = fault == NO_SUCH_BLOCK ? 5 : 3;
        if ((fault != NOT_BROUGHT || rank == 0) && fault != ENDED_BEFORE) {
            cp_async_bulk_tensor_2d_multicast(s_x + rank * 32 * 64, &x, &s_bars[0], 0, rank * 32, mask);
        }
    }
    if (fault == BROUGHT_TO_ENDED && rank == 0) return;
    if (fault == ENDED_BEFORE) {
        if (rank == 1 && threadIdx.x == 0) cp_async_bulk_tensor_2d(s_x, &x, &s_bars[0], 0, 0);
        if (rank == 1) return;
    }
    mbarrier_wait(&s_bars[0], 0);
    for (int i = threadIdx.x; i < 64 * 64; i += 64) y[blockIdx.x * 64 * 64 + i] = s_x[i];
    __syncthreads();
    if (threadIdx.x < 2) mbarrier_arrive_cluster(&s_bars[1], threadIdx.x);
    if (fault == ONE_MORE && threadIdx.x < 2) mbarrier_arrive_cluster(&s_bars[1], threadIdx.x);
    if (fault == HAS_ENDED && rank == 0) return;
    if (threadIdx.x == 0) mbarrier_wait(&s_bars[1], 0);
}
