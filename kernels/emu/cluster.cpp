// See cluster.h.

#include "emu/cluster.h"

#include <stdlib.h>
#include <string.h>

#include "emu/count.h"

extern "C" emu::Worker* haggle_emu_worker_new();
extern "C" void haggle_emu_worker_free(emu::Worker* w);

namespace emu {

namespace {

bool in_arena(const Worker& w, const void* at) {
  const char* byte = static_cast<const char*>(at);
  return byte >= w.arena && byte < w.arena + ARENA_BYTES;
}

}  // namespace

Cluster* cluster_of(Worker& w, uint32_t n_blocks) {
  if (!w.own_cluster) w.own_cluster = static_cast<Cluster*>(calloc(1, sizeof(Cluster)));
  if (!w.own_cluster) return nullptr;
  Cluster& cluster = *w.own_cluster;
  cluster.blocks[0] = &w;
  for (uint32_t i = 0; i < n_blocks; ++i) {
    if (!cluster.blocks[i]) cluster.blocks[i] = haggle_emu_worker_new();
    Worker* block = cluster.blocks[i];
    if (!block) return nullptr;
    block->cluster = &cluster;
    block->rank = i;
    block->launch = w.launch;
    block->counting = w.counting;
    block->block_dim = w.block_dim;
    block->grid_dim = w.grid_dim;
  }
  cluster.n_blocks = cluster.n_left = n_blocks;
  cluster.arrived = cluster.passes = cluster.meets = 0;
  return &cluster;
}

void cluster_free(Worker& w) {
  if (!w.own_cluster) return;
  for (uint32_t i = 1; i < MAX_CLUSTER; ++i) {
    if (w.own_cluster->blocks[i]) haggle_emu_worker_free(w.own_cluster->blocks[i]);
  }
  free(w.own_cluster);
}

Worker* block_at(Worker& w, const void* at) {
  if (in_arena(w, at)) return &w;
  for (uint32_t i = 0; w.cluster && i < w.cluster->n_blocks; ++i) {
    if (in_arena(*w.cluster->blocks[i], at)) return w.cluster->blocks[i];
  }
  return nullptr;
}

uint32_t cluster_ctarank() { return g_worker->cluster ? g_worker->rank : 0; }

uint32_t cluster_nctarank() { return g_worker->cluster ? g_worker->cluster->n_blocks : 1; }

void meet_of_cluster(bool fences, const char* file, int line) {
  Worker& w = *g_worker;
  if (!w.cluster) return sync_threads(0, file, line);
  Cluster& cluster = *w.cluster;
  if (cluster.arrived == 0) {
    cluster.file = file;
    cluster.line = line;
  } else if (cluster.line != line || cluster.file != file) {
    fail("divergent barrier.cluster: waits at %s:%d, others of its cluster at %s:%d", short_name(file), line,
         short_name(cluster.file), cluster.line);
  }
  w.self->file = file;
  w.self->line = line;
  if (++cluster.arrived < cluster.n_blocks * w.n_threads) return sleep_until_woken(Wait::Cluster);
  cluster.arrived = 0;
  ++cluster.passes;
  cluster.meets += fences;
  for (uint32_t i = 0; i < cluster.n_blocks; ++i) all_of_block_meet(*cluster.blocks[i], fences);
  sleep_until_woken(Wait::Cluster);
}

void* mapa(const void* shared, uint32_t rank) {
  Worker& w = *g_worker;
  const SharedArray* mine = shared_at(w, shared, 1);
  if (!mine) fail("mapa: no address in the shared memory of its block");
  if (rank >= cluster_nctarank()) fail("mapa: block %u of a cluster of %u", rank, cluster_nctarank());
  const Worker& block = w.cluster ? *w.cluster->blocks[rank] : w;
  for (uint32_t i = 0; i < block.n_arrays; ++i) {
    const SharedArray& array = block.arrays[i];
    if (strcmp(array.name, mine->name) == 0 && array.bytes == mine->bytes) {
      return array.start + (static_cast<const char*>(shared) - mine->start);
    }
  }
  fail("mapa: block %u of the cluster has no `%s` yet: no barrier.cluster has passed since it began", rank, mine->name);
}

}  // namespace emu
