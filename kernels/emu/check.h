// The checked build: each load and store of a kernel is a call, and undefined behaviour is a report.
//
// The compiler's thread sanitizer puts a call before every access that another thread could see, its undefined-behaviour
// sanitizer a branch before everything the language leaves open; check.cpp answers both, so no sanitizer library is
// linked. Found: any access outside the arguments' views and the block's shared arrays, a store to an input, a read of
// shared memory nobody has written, two threads at one place of shared memory without a barrier between them, a
// misaligned access, an integer overflow, a shift too far. In a cluster: shared memory of a block that has ended, or used by
// two blocks without a barrier of the cluster between.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "emu/runtime.h"

namespace emu {

// What the check remembers of a byte of shared memory, this block.
struct ByteShadow {
  bool written, others;              // others: threads besides `reader` have read
  uint16_t writer, reader;           // thread + 1
  uint8_t reader_warp;               // or SEVERAL
  uint32_t write_epoch, read_epoch;  // barriers passed
  uint32_t write_sync, read_sync;    // __syncwarps of that thread's warp passed
  uint32_t write_fences;             // fence.proxy.async of the writer passed
  // Cluster barriers passed, plus one, when a thread of this block has written and read it last; the same of another block's, and
  // which (rank, thread + 1 in the block).
  uint32_t write_meets, read_meets, far_write_meets, far_read_meets;
  uint32_t far_writer, far_reader;
};

enum class Access { Read, Write, Atomic };

// Reports an access that must not be; `plain` kernels are not checked.
void check_access(const void* at, size_t bytes, Access access);
// Shared bytes that hold nothing any more: a new array, or the target of a cp.async that is under way.
void check_forget(Worker& w, const void* at, size_t bytes);

// What the tensor cores and the copy engine of sm_90 do to shared memory: reads what was written, and fenced by who wrote
// it; writes for everybody.
void check_async_read(const void* at, size_t bytes);
void check_async_write(Worker& w, const void* at, size_t bytes);

inline bool checked() { return g_worker->launch->entry->build == Build::Checked; }

}  // namespace emu
