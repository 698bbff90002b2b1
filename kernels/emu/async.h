// What runs beside the threads of a block on sm_90: its mbarriers, its bulk copies, the products of its warps.
#pragma once

#include "emu/cluster.h"
#include "emu/row.h"
#include "emu/runtime.h"
#include "emu/tensor_map.h"

namespace emu {

constexpr uint32_t MAX_MBARRIERS = 64, MAX_COLUMNS = 256, MAX_SUMS = 8;

struct Mbarrier {
  uint64_t* at;
  uint32_t count, pending, phase;  // arrivals of a phase, those that lack, phases completed
  int32_t bytes;                   // expected and not there yet; below 0 where they came before they were expected
  uint32_t init_thread, init_epoch, init_passes;
  bool fenced;
};

// Where a bulk copy goes, and where it counts: in a block of the cluster.
struct Target {
  Worker* block;
  char* to;
  uint64_t* bar;
};

struct BulkCopy {
  TensorMap map;
  Target targets[MAX_CLUSTER];
  uint32_t n_targets;
  int32_t at[3];
  Thread* by;
  uint32_t bytes;  // that lie inside the tensor
};

// A wgmma that has begun.
struct Product {
  uint64_t a, b, operands;  // descriptors; a number that changes with what they name
  uint32_t columns, group, sums;
  bool a_in_registers, a_turned, b_turned, add;
  uint32_t fragments[WARP][4];
};

// Accumulators that products are under way into: the warp's 16 rows.
struct Sums {
  float* at[WARP];
  uint32_t columns, n_products;
  float values[16][MAX_COLUMNS];
};

struct WarpProducts {
  Product* products;
  uint32_t n_products, max_products, groups, issued;
  Sums* sums[MAX_SUMS];
};

struct Async {
  Mbarrier mbarriers[MAX_MBARRIERS];
  uint32_t n_mbarriers;
  BulkCopy* copies;
  uint32_t max_copies;
  WarpProducts warps[MAX_WARPS];
  Rows<16> a;
  alignas(32) float b[16][MAX_COLUMNS];
};

// The worker's; made when it is first needed.
Async& async_of(Worker& w);
void async_start(Worker& w);  // of a block
void async_free(Worker& w);
// What is under way though the block has ended, and whose it is; null: nothing.
const char* async_left(Worker& w, uint32_t* thread);

// Completes one of the bulk copies under way: the oldest, or with a seed a random one.
void bulk_complete(Worker& w);
// Bytes have come: may complete the phase of their mbarrier.
void mbarrier_complete_bytes(Worker& w, uint64_t* bar, uint32_t bytes);
// Fails unless the current thread may use this mbarrier of block `w`; `engine`: for the copy engine.
void mbarrier_check(Worker& w, uint64_t* bar, const char* what, bool engine);
// Says which mbarrier a thread waits at and what it lacks.
void mbarrier_lacks(Worker& w, const Thread& thread, char* text, size_t bytes);

}  // namespace emu
