// Shared memory of a block, with poison and guards, and the copies that cp.async has begun.

#include <stdlib.h>
#include <string.h>

#include "emu/check.h"
#include "emu/count.h"
#include "emu/dependent.h"

namespace emu {

namespace {

uint32_t n_slots = 0;  // static shared arrays met so far, in all kernels

char* shared_array(Worker& w, const char* name, size_t bytes) {
  if (w.n_arrays == 64) fail("more than 64 shared arrays");
  size_t total = bytes;
  for (uint32_t i = 0; i < w.n_arrays; ++i) total += w.arrays[i].bytes;
  if (total > MAX_SHARED_BYTES) fail("shared memory: %zu bytes with `%s`, a block may have %zu", total, name, MAX_SHARED_BYTES);
  char* start = w.arena + w.arena_used;
  w.arrays[w.n_arrays++] = {name, start, bytes};
  memset(start + bytes, GUARD, GUARD_BYTES);
  if (checked()) check_forget(w, start, bytes);
  w.arena_used = (w.arena_used + bytes + GUARD_BYTES + 127) / 128 * 128;
  return start;
}

}  // namespace

char* shared_new() {
  char* arena = static_cast<char*>(aligned_alloc(128, (ARENA_BYTES + 127) / 128 * 128));
  if (arena) memset(arena, POISON, ARENA_BYTES);
  return arena;
}

void shared_start(Worker& w, size_t dynamic_bytes) {
  memset(w.arena, POISON, w.arena_used);
  w.arena_used = w.n_arrays = 0;
  if (dynamic_bytes) shared_array(w, "dynamic", dynamic_bytes);  // cannot fail: Rust has checked its size
}

const SharedArray* shared_overrun(const Worker& w) {
  for (uint32_t i = 0; i < w.n_arrays; ++i) {
    const char* guard = w.arrays[i].start + w.arrays[i].bytes;
    for (size_t b = 0; b < GUARD_BYTES; ++b) {
      if (static_cast<uint8_t>(guard[b]) != GUARD) return &w.arrays[i];
    }
  }
  return nullptr;
}

const SharedArray* shared_at(const Worker& w, const void* at, size_t bytes) {
  const char* first = static_cast<const char*>(at);
  for (uint32_t i = 0; i < w.n_arrays; ++i) {
    const SharedArray& array = w.arrays[i];
    if (first >= array.start && first + bytes <= array.start + array.bytes) return &array;
  }
  return nullptr;
}

void* shared_dynamic() {
  Worker& w = *g_worker;
  if (!w.launch->shared_bytes) fail("uses dynamic shared memory, but was launched without");
  return w.arena;
}

void* shared_static(uint32_t* slot, const char* name, size_t bytes) {
  Worker& w = *g_worker;
  uint32_t id = __atomic_load_n(slot, __ATOMIC_RELAXED);
  if (!id) {
    const uint32_t fresh = __atomic_add_fetch(&n_slots, 1, __ATOMIC_RELAXED);
    // Another worker may have been faster: then its number holds, and this one stays unused.
    id = __atomic_compare_exchange_n(slot, &id, fresh, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED) ? fresh : id;
  }
  if (id >= MAX_SLOTS) fail("more than %u static shared arrays in all kernels together", MAX_SLOTS);
  if (w.slot_run[id] != w.run) {
    w.slot_run[id] = w.run;
    w.slot_start[id] = shared_array(w, name, bytes);
  }
  return w.slot_start[id];
}

void copy_takes_off(Thread& t, uint32_t bytes) {
  t.flying += bytes;
  if (t.flying > t.most_flying) t.most_flying = t.flying;
  if (counted()) count_copied(bytes);
}

void copy_begin(void* to, const void* from, uint32_t bytes, uint32_t from_bytes) {
  Thread& t = *g_worker->self;
  if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes) {
    fail("misaligned cp.async: %u bytes from %p to %p", bytes, from, to);
  }
  if (t.n_copies == t.max_copies) {
    t.max_copies = t.max_copies ? 2 * t.max_copies : 16;
    t.copies = static_cast<Copy*>(realloc(t.copies, t.max_copies * sizeof(Copy)));
    if (!t.copies) fail("out of memory");
  }
  check_dependent(from, from_bytes, Access::Read);
  if (checked()) {
    check_access(from, from_bytes, Access::Read);
    check_access(to, bytes, Access::Write);
    check_forget(*g_worker, to, bytes);
  }
  if (counted()) {
    const char* place = static_cast<const char*>(__builtin_return_address(0));
    count_access(from, from_bytes, Access::Read, place);
    count_access(to, bytes, Access::Write, place + 1);
  }
  memset(to, POISON, bytes);
  t.copies[t.n_copies++] = {to, from, bytes, from_bytes, t.groups};
  copy_takes_off(t, from_bytes);
}

void bulk_prefetch(const void* at, uint32_t bytes) {
  if (reinterpret_cast<uintptr_t>(at) % 16 || bytes % 16) fail("misaligned cp.async.bulk.prefetch.L2: %u bytes from %p", bytes, at);
  if (checked()) check_access(at, bytes, Access::Read);
  if (counted()) count_prefetched(bytes);
}

void copy_commit() { ++g_worker->self->groups; }

void copy_wait(uint32_t groups_left) {
  Thread& t = *g_worker->self;
  uint32_t done = 0;
  for (; done < t.n_copies; ++done) {
    const Copy& copy = t.copies[done];
    if (copy.group + groups_left >= t.groups) break;
    if (checked()) check_access(copy.to, copy.bytes, Access::Write);
    memcpy(copy.to, copy.from, copy.from_bytes);
    memset(static_cast<char*>(copy.to) + copy.from_bytes, 0, copy.bytes - copy.from_bytes);
    t.flying -= copy.from_bytes;
  }
  t.n_copies -= done;
  memmove(t.copies, t.copies + done, t.n_copies * sizeof(Copy));
}

}  // namespace emu
