// See sm90.h: bulk tensor copies from global to shared memory.

#include <stdlib.h>
#include <string.h>

#include "emu/async.h"
#include "emu/check.h"
#include "emu/cluster.h"
#include "emu/count.h"
#include "emu/dependent.h"
#include "emu/emu.h"

namespace emu {

namespace {

uint32_t box_bytes(const TensorMap& map) { return map.box[0] * map.box[1] * map.box[2] * map.element_bytes; }

// Bytes of the box that lie inside the tensor.
uint32_t bytes_inside(const TensorMap& map, const int32_t (&at)[3]) {
  int64_t bytes = map.element_bytes;
  for (int i = 0; i < 3; ++i) {
    const int64_t first = at[i] < 0 ? 0 : at[i], dim = static_cast<int64_t>(map.dims[i]);
    const int64_t end = static_cast<int64_t>(at[i]) + map.box[i] < dim ? static_cast<int64_t>(at[i]) + map.box[i] : dim;
    bytes *= end > first ? end - first : 0;
  }
  return static_cast<uint32_t>(bytes);
}

// The part of a row of the box that lies inside the tensor; `skipped` bytes of the row lie before it.
struct Part {
  const char* from;
  size_t skipped, bytes;
};

Part part_inside(const TensorMap& map, const int32_t (&at)[3]) {
  const int64_t i1 = at[1], i2 = at[2], size = map.element_bytes;
  if (i1 < 0 || i2 < 0 || i1 >= static_cast<int64_t>(map.dims[1]) || i2 >= static_cast<int64_t>(map.dims[2])) return {};
  const int64_t first = at[0] < 0 ? 0 : at[0];
  int64_t end = static_cast<int64_t>(at[0]) + map.box[0];
  if (end > static_cast<int64_t>(map.dims[0])) end = static_cast<int64_t>(map.dims[0]);
  if (first >= end) return {};
  const char* from = reinterpret_cast<const char*>(map.base) + i1 * map.strides[1] + i2 * map.strides[2] + first * size;
  return {from, static_cast<size_t>((first - at[0]) * size), static_cast<size_t>((end - first) * size)};
}

// The address of a block's shared memory as instructions take it.
uint32_t address_in(const Worker& w, const void* s) {
  return static_cast<uint32_t>(static_cast<const char*>(s) - w.arena) + SHARED_WINDOW;
}

// Calls f(where it begins) for each row of the box at `at`.
template <class F>
void each_row(const TensorMap& map, const int32_t (&at)[3], F f) {
  for (uint32_t i = 0; i < map.box[1] * map.box[2]; ++i) {
    const int32_t row[3] = {at[0], at[1] + static_cast<int32_t>(i % map.box[1]), at[2] + static_cast<int32_t>(i / map.box[1])};
    f(row);
  }
}

// One row of the box, zero where it lies outside the tensor.
void read_row(const TensorMap& map, const int32_t (&at)[3], char* row) {
  memset(row, 0, map.box[0] * map.element_bytes);
  const Part part = part_inside(map, at);
  if (!part.bytes) return;
  if (checked()) check_access(part.from, part.bytes, Access::Read);
  if (counted()) count_bulk(part.from, part.bytes);
  memcpy(row + part.skipped, part.from, part.bytes);
}

}  // namespace

uint32_t shared_address(const void* s) { return address_in(*g_worker, s); }

void bulk_copy(uint32_t rank, void* s_to, const TensorMap* map, uint64_t* bar, const int32_t (&at)[3], uint32_t mask) {
  Worker& w = *g_worker;
  Async& async = async_of(w);
  if (map->rank != rank) fail("cp.async.bulk.tensor.%ud with a map of a tensor of %u dimensions", rank, map->rank);
  const uint32_t bytes = box_bytes(*map);
  if (shared_address(s_to) % 128) fail("misaligned cp.async.bulk.tensor: shared address %#x is no multiple of 128", shared_address(s_to));
  if (!shared_at(w, s_to, bytes)) fail("cp.async.bulk.tensor: a box of %u bytes does not fit its shared array", bytes);
  Target targets[MAX_CLUSTER];
  uint32_t n_targets = 0;
  if (!mask) targets[n_targets++] = {&w, static_cast<char*>(s_to), bar};
  if (mask >> cluster_nctarank()) fail("cp.async.bulk.tensor: multicast to %#x, the cluster has %u blocks", mask, cluster_nctarank());
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    char* to = static_cast<char*>(mapa(s_to, __builtin_ctz(rest)));
    targets[n_targets++] = {block_at(w, to), to, static_cast<uint64_t*>(mapa(bar, __builtin_ctz(rest)))};
  }
  for (uint32_t i = 0; i < n_targets; ++i) mbarrier_check(*targets[i].block, targets[i].bar, "cp.async.bulk.tensor", true);
  if (w.n_bulk == async.max_copies) {
    async.max_copies = async.max_copies ? 2 * async.max_copies : 16;
    async.copies = static_cast<BulkCopy*>(realloc(static_cast<void*>(async.copies), async.max_copies * sizeof(BulkCopy)));
    if (!async.copies) fail("out of memory");
  }
  if (!w.self->waited) {
    each_row(*map, at, [&](const int32_t (&row)[3]) {
      const Part part = part_inside(*map, row);
      check_dependent(part.from, part.bytes, Access::Read);
    });
  }
  BulkCopy& copy = async.copies[w.n_bulk++];
  copy.map = *map;
  copy.n_targets = n_targets;
  for (uint32_t i = 0; i < n_targets; ++i) {
    if (checked()) check_forget(*targets[i].block, targets[i].to, bytes);
    memset(targets[i].to, POISON, bytes);
    copy.targets[i] = targets[i];
  }
  memcpy(copy.at, at, sizeof copy.at);
  copy.by = w.self;
  copy.bytes = bytes_inside(*map, at);
  copy_takes_off(*copy.by, copy.bytes);
}

void bulk_complete(Worker& w) {
  Async& async = *w.async;
  const uint32_t which = random_turn(w) % w.n_bulk;
  const BulkCopy copy = async.copies[which];
  memmove(static_cast<void*>(async.copies + which), async.copies + which + 1, (--w.n_bulk - which) * sizeof(BulkCopy));
  const TensorMap& map = copy.map;
  const uint32_t width = map.box[0] * map.element_bytes;
  alignas(16) char row[1024];
  uint32_t offset = 0;
  each_row(map, copy.at, [&](const int32_t (&at)[3]) {
    read_row(map, at, row);
    for (uint32_t unit = 0; unit < width; unit += 16, offset += 16) {
      for (uint32_t i = 0; i < copy.n_targets; ++i) {
        // The pattern of 128 bytes: a 16-byte unit's number in its line of 128 is xored with the line's number in eight.
        const uint32_t address = address_in(*copy.targets[i].block, copy.targets[i].to) + offset;
        const uint32_t to = map.swizzle_bytes == 128 ? address ^ (address >> 7 & 7) << 4 : address;
        memcpy(copy.targets[i].block->arena + (to - SHARED_WINDOW), row + unit, 16);
      }
    }
  });
  copy.by->flying -= copy.bytes;
  for (uint32_t i = 0; i < copy.n_targets; ++i) {
    const Target& target = copy.targets[i];
    if (target.block->n_left == 0) {  // one without a cluster has gone by then: see async_left
      fail("cp.async.bulk.tensor: brings %u bytes to block %u of its cluster, which has ended", box_bytes(map), target.block->rank);
    }
    if (checked()) check_async_write(*target.block, target.to, box_bytes(map));
    mbarrier_complete_bytes(*target.block, target.bar, box_bytes(map));
  }
}

}  // namespace emu
