// Clusters: blocks that run together, meet, and reach into each other's shared memory (sm_90 and newer). A kernel says CLUSTER(n)
// behind its launch bounds; its grid is a multiple of n blocks wide. Elsewhere a block is a cluster of its own.
#pragma once

#include "common/ptx_sm90.cuh"

#ifdef HAGGLE_EMU

#define CLUSTER(n)
using ::emu::cluster_ctarank;
using ::emu::cluster_nctarank;
#define barrier_cluster() ::emu::barrier_cluster(__FILE__, __LINE__)

template <class T>
inline T* mapa(T* shared, uint32_t rank) {
    return static_cast<T*>(::emu::mapa(shared, rank));
}

#elif defined(HAGGLE_SM90)

#define CLUSTER(n) __cluster_dims__(n, 1, 1)

// The block's place in its cluster, and how many blocks that has.
__device__ __forceinline__ uint32_t cluster_ctarank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ __forceinline__ uint32_t cluster_nctarank() {
    uint32_t n;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(n));
    return n;
}

// All threads of the cluster meet; what any of them has written before, to global memory too, all see behind it.
__device__ __forceinline__ void barrier_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Where what stands at `shared`, in this block's shared memory, stands in that of block `rank` of its cluster. It must have begun,
// by a barrier of the cluster, and must not end before the last use, by another.
template <class T>
__device__ __forceinline__ T* mapa(T* shared, uint32_t rank) {
    T* there;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(shared), "r"(rank));
    return there;
}

#else

#define CLUSTER(n)
__device__ __forceinline__ uint32_t cluster_ctarank() { return 0; }
__device__ __forceinline__ uint32_t cluster_nctarank() { return 1; }
__device__ __forceinline__ void barrier_cluster() { __syncthreads(); }
template <class T>
__device__ __forceinline__ T* mapa(T* shared, uint32_t) {
    return shared;
}

#endif
