// Clusters of sm_90: blocks that run together, meet at a barrier of their own and reach into each other's shared memory.
// common/cluster.cuh calls these by PTX's names.
//
// Each block of a cluster has a worker; one operating-system thread runs them all, and goes from a block to another when none of
// its threads can go on, or, with a seed, at any time. Reported: a barrier that not all threads come to; shared memory of a block
// that has not begun, or has ended; in the checked build, memory of another block that is used with no barrier.cluster between.
#pragma once

#include "emu/runtime.h"

namespace emu {

constexpr uint32_t MAX_CLUSTER = 8;  // blocks; what every card of sm_90 has room for

struct Cluster {
  Worker* blocks[MAX_CLUSTER];  // the first runs it
  uint32_t n_blocks, n_left;    // n_left: blocks that have not ended
  uint32_t arrived;             // threads at the barrier
  uint32_t passes, meets;       // times all have passed it, times they have seen there what was written before
  const char* file;
  int line;
};

// The cluster that this worker runs, with workers for its blocks; null when there is no memory for them.
Cluster* cluster_of(Worker& w, uint32_t n_blocks);
void cluster_free(Worker& w);

// The block whose shared memory this is; null: of none of the cluster's.
Worker* block_at(Worker& w, const void* at);

uint32_t cluster_ctarank();
uint32_t cluster_nctarank();
// barrier.cluster. `fences`: what was written before is seen behind it; else nothing but mbarriers is.
void meet_of_cluster(bool fences, const char* file, int line);
// Where what stands at `shared`, in this block's shared memory, stands in that of block `rank`.
void* mapa(const void* shared, uint32_t rank);

}  // namespace emu
