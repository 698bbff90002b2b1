// The counted build: what a launch does to memory, tensor cores and barriers, counted as a GPU's profiler counts it.
//
// As in the checked build, the compiler's thread sanitizer puts a call before every access. Lanes of the emulator run one
// after another, so accesses become requests afterwards: the n-th access of each lane of a warp at one place of the code,
// since the lanes last met, is one request. A vector that the compiler moves whole is one access.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "emu/check.h"
#include "emu/runtime.h"

namespace emu {

// Global or shared memory, through loads, stores, atomics, cp.async (and its shared side), bulk copies.
void count_access(const void* at, size_t bytes, Access access, const void* site);
// One row of a bulk copy's box: requests of 128 bytes.
void count_bulk(const void* at, size_t bytes);
// A copy of so many bytes from global to shared memory has begun, or a prefetch.
void count_copied(uint64_t bytes);
void count_prefetched(uint64_t bytes);
// One matrix of an ldmatrix, its first or a later one: the addresses of eight rows of 16 bytes are one wavefront where no
// bank is asked twice.
void count_matrix(const void* const (&rows)[8], bool first);
// A warp's product of so many floating-point operations.
void count_product(uint64_t flops, bool by_warpgroup);
// The lanes of a warp have met; all of a block's have; the block has ended; the worker has no more blocks.
void count_warp_meets(Worker& w, uint32_t warp);
void count_block_meets(Worker& w);
void count_block_ends(Worker& w);
void count_launch_ends(Worker& w, Launch& launch);
void count_free(Worker& w);

// A kernel of the counted build may run without being counted, for what its calls are to the rule of dependent.h.
inline bool counted() { return g_worker->launch->counts != nullptr; }

}  // namespace emu
