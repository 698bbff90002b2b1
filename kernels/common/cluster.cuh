// Clusters: blocks that run together, meet, and reach into each other's shared memory (sm_90 and newer). A kernel says CLUSTER(n)
// behind its launch bounds; its grid is a multiple of n blocks wide. Elsewhere a block is a cluster of its own.
#pragma once

#include "common/ptx_sm90.cuh"

#ifdef HAGGLE_EMU

#define CLUSTER(n)
using ::emu::cluster_ctarank;
using ::emu::cluster_nctarank;
#define barrier_cluster() ::emu::meet_of_cluster(true, __FILE__, __LINE__)
#define barrier_cluster_relaxed() ::emu::meet_of_cluster(false, __FILE__, __LINE__)

template <class T>
inline T* mapa(T* shared, uint32_t rank) {
    return static_cast<T*>(::emu::mapa(shared, rank));
}

using ::emu::mbarrier_arrive_cluster;

inline void cp_async_bulk_tensor_2d_multicast(void* s_to, const TensorMap* map, uint64_t* s_bar, int32_t x, int32_t y,
                                              uint16_t mask) {
    ::emu::bulk_copy(2, s_to, map, s_bar, {x, y, 0}, mask);
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

// The same without a fence of all memory: behind it others may use the mbarriers that were initialised before, and fenced.
__device__ __forceinline__ void barrier_cluster_relaxed() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}

// Where what stands at `shared`, in this block's shared memory, stands in that of block `rank` of its cluster. It must have begun,
// by a barrier of the cluster, and must not end before the last use, by another.
template <class T>
__device__ __forceinline__ T* mapa(T* shared, uint32_t rank) {
    T* there;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(shared), "r"(rank));
    return there;
}

// Arrives at the mbarrier that stands there in block `rank` of the cluster, which must not have ended. What this thread wrote
// before, threads of other blocks do not see by it: that would be a fence of all memory.
__device__ __forceinline__ void mbarrier_arrive_cluster(uint64_t* s_bar, uint32_t rank) {
    asm volatile(
        "{.reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "
        "mbarrier.arrive.shared::cluster.b64 _, [there];}" ::"r"(shared_address(s_bar)),
        "r"(rank)
        : "memory");
}

// cp_async_bulk_tensor_2d to the same place of every block of the cluster that `mask` names, by one read; its bytes count at the
// mbarrier that stands there in each of them.
__device__ __forceinline__ void cp_async_bulk_tensor_2d_multicast(void* s_to, const TensorMap* map, uint64_t* s_bar, int32_t x,
                                                                  int32_t y, uint16_t mask) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], "
        "[%2], %5;" ::"r"(shared_address(s_to)),
        "l"(map), "r"(shared_address(s_bar)), "r"(x), "r"(y), "h"(mask)
        : "memory");
}

#else

#define CLUSTER(n)
__device__ __forceinline__ uint32_t cluster_ctarank() { return 0; }
__device__ __forceinline__ uint32_t cluster_nctarank() { return 1; }
__device__ __forceinline__ void barrier_cluster() { __syncthreads(); }
__device__ __forceinline__ void barrier_cluster_relaxed() { __syncthreads(); }
template <class T>
__device__ __forceinline__ T* mapa(T* shared, uint32_t) {
    return shared;
}

#endif
