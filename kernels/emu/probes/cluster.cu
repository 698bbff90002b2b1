// Blocks that run together: for tests/emu/cluster.rs.
#include "common/cluster.cuh"
#include "common/shared.cuh"

// y [blocks, threads]: `rounds` times, each thread takes the number of its like in the next block of the cluster, and adds what
// that block is.
extern "C" __global__ void __launch_bounds__(96) CLUSTER(4) probe_cluster(int32_t* y, int32_t rounds) {
    __shared__ int32_t s_x[96];
    int rank = (int)cluster_ctarank(), n = (int)cluster_nctarank();
    int32_t x = (int32_t)threadIdx.x;
    for (int i = 0; i < rounds; i++) {
        s_x[threadIdx.x] = x;
        barrier_cluster();
        x = *mapa(&s_x[threadIdx.x], (uint32_t)((rank + 1) % n)) + (rank + 1) % n;
        barrier_cluster();
    }
    y[blockIdx.x * blockDim.x + threadIdx.x] = x + 1000 * n;
}
