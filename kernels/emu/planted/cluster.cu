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
