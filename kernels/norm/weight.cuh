// The weight of a norm in shared memory.
//
// Blocks share w: BLOCKS of them, which whoever includes this says. One reads it alone; in a cluster each reads a part of it and
// gives it to all, so that w is read once for their rows.
#pragma once

#include "common/cluster.cuh"
#include "common/rows.cuh"

static_assert(BLOCKS >= 1 && BLOCKS <= 8, "a block, or a cluster of up to eight");

// w into s_w of every block that shares it.
template <int N, typename T>
__device__ __forceinline__ void load_weight(T* s_w, const T* __restrict__ w, int32_t dim) {
    if (BLOCKS == 1) return load_rows<N>(s_w, w, 1, dim);
    barrier_cluster_relaxed();  // all have begun
    // A warp's loads lie side by side, those of the blocks' warps take turns.
    int mine = threadIdx.x / 32 * BLOCKS + (int)cluster_ctarank();
    for (int i = (mine * 32 + threadIdx.x % 32) * N; i < dim; i += BLOCKS * blockDim.x * N) {
        Pack<T, N> v = load_pack<N>(w + i);
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) store_pack(mapa(s_w + i, b), v);
    }
    barrier_cluster();  // s_w of each is the weight
}
