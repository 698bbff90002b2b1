// See dependent.h.

#include "emu/dependent.h"
#include "emu/emu.h"

namespace emu {

namespace {

bool meet(uintptr_t at, size_t bytes, uintptr_t start, uintptr_t end) { return at < end && at + bytes > start; }

// The argument these bytes are of; null: shared or local memory, or the emulator's own.
const Range* argument_at(const Launch& launch, uintptr_t at, size_t bytes) {
  for (uint32_t i = 0; i < launch.n_ranges; ++i) {
    const Range& range = launch.ranges[i];
    if (meet(at, bytes, range.start, range.end)) return &range;
  }
  return nullptr;
}

}  // namespace

void check_dependent_access(const void* pointer, size_t bytes, Access access) {
  const Launch& launch = *g_worker->launch;
  const uintptr_t at = reinterpret_cast<uintptr_t>(pointer);
  const Range* range = argument_at(launch, at, bytes);
  if (!range) return;
  if (access != Access::Read) {
    fail("dependent: writes %zu bytes of argument %u before griddepcontrol.wait: launches before may still read them", bytes,
         range->argument);
  }
  for (uint32_t i = 0; i < launch.n_pending; ++i) {
    const Pending& pending = launch.pending[i];
    if (!meet(at, bytes, pending.start, pending.end)) continue;
    fail("dependent: reads %zu bytes of argument %u before griddepcontrol.wait, which argument %u of %.*s, %u launch%s before, "
         "may still be writing",
         bytes, range->argument, pending.argument, static_cast<int>(pending.kernel_bytes), pending.kernel, pending.back,
         pending.back == 1 ? "" : "es");
  }
}

void griddepcontrol_wait() {
  Thread& self = *g_worker->self;
  if (!self.waited) __atomic_fetch_add(&g_worker->launch->waits, 1, __ATOMIC_RELAXED);
  self.waited = true;
}

}  // namespace emu
