// Programmatic dependent launches, held to their rule (common/dependent.cuh).
//
// Here a launch always begins when the last has ended, so that a missing wait changes no result. Instead a launch that could
// begin early is told what the launches before it may still be writing: their outputs, back to the last launch that waited for
// all before it. Reported are, of a thread that has not waited, a read of those and a store to any argument; and a launch
// whose threads all end without waiting, because the launch behind it relies on its wait. Copies to shared memory are seen in
// every build; other accesses where they are calls: in the checked build (check.h) and in the counted one (count.h).
#pragma once

#include "emu/check.h"
#include "emu/runtime.h"

namespace emu {

// Reports an access that this thread must not make before it waits; one that has waited may all.
void check_dependent_access(const void* at, size_t bytes, Access access);

inline void check_dependent(const void* at, size_t bytes, Access access) {
  const Thread* self = g_worker->self;
  if (self && !self->waited) check_dependent_access(at, bytes, access);
}

}  // namespace emu
