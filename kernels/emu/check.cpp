// See check.h.

#include "emu/check.h"

#include "emu/cluster.h"
#include "emu/count.h"
#include "emu/dependent.h"
#include "emu/tensor_map.h"

#include <stdlib.h>
#include <string.h>

extern "C" char __executable_start[] __attribute__((weak));
extern "C" char _end[] __attribute__((weak));

namespace emu {

namespace {

constexpr uint8_t SEVERAL = 0xFF;

bool inside(uintptr_t at, size_t bytes, const void* start, size_t size) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(start);
  return at >= first && at + bytes <= first + size;
}

const char* verb(Access access) { return access == Access::Read ? "reads" : "writes"; }

[[noreturn]] void fail_outside(const Launch& launch, uintptr_t at, size_t bytes, Access access) {
  const Range* nearest = nullptr;
  uintptr_t best = 1 << 20;
  for (uint32_t i = 0; i < launch.n_ranges; ++i) {
    const Range& range = launch.ranges[i];
    const uintptr_t far = at >= range.end ? at - range.end : range.start - at;
    if (range.end > range.start && far < best) {
      best = far;
      nearest = &range;
    }
  }
  if (!nearest) fail("out of bounds: %s %zu bytes at %#zx, near no argument", verb(access), bytes, static_cast<size_t>(at));
  fail("out of bounds: %s %zu bytes, %zu bytes %s argument %u", verb(access), bytes, static_cast<size_t>(best),
       at >= nearest->end ? "behind" : "before", nearest->argument);
}

[[noreturn]] void fail_shared(const Worker& w, uintptr_t at, size_t bytes, Access access) {
  const SharedArray* before = nullptr;
  for (uint32_t i = 0; i < w.n_arrays; ++i) {
    if (reinterpret_cast<uintptr_t>(w.arrays[i].start) <= at) before = &w.arrays[i];
  }
  if (!before) fail("out of bounds: %s %zu bytes before shared memory", verb(access), bytes);
  fail("out of bounds: %s %zu bytes at offset %zu of shared array `%s`, which has %zu", verb(access), bytes,
       static_cast<size_t>(at - reinterpret_cast<uintptr_t>(before->start)), before->name, before->bytes);
}

[[noreturn]] void fail_race(const Worker& w, const char* what, const SharedArray& array, size_t offset, uint16_t other) {
  const Index3 t = w.threads[other - 1].index;
  fail("race: %s byte %zu of shared array `%s` with no barrier after thread (%u, %u, %u) %s", what, offset, array.name,
       t.x, t.y, t.z, strcmp(what, "reads") == 0 ? "wrote it" : "used it");
}

// Threads of a cluster, by a number: 1024 a block, from 1 on.
uint32_t number_of(const Worker& w) { return w.rank * MAX_THREADS + w.self->warp * WARP + w.self->lane + 1; }

[[noreturn]] void fail_far(const Worker& owner, Access access, const SharedArray& array, size_t offset, uint32_t by, const char* did) {
  const Worker& other = *owner.cluster->blocks[(by - 1) / MAX_THREADS];
  const Index3 t = other.threads[(by - 1) % MAX_THREADS].index;
  fail("race: %s byte %zu of `%s` of block %u of its cluster with no barrier.cluster after thread (%u, %u, %u) of block %u %s it",
       verb(access), offset, array.name, owner.rank, t.x, t.y, t.z, other.rank, did);
}

// A byte of a cluster's shared memory: what its own block does, and what others do there, must be apart by a barrier of all.
void check_cluster(Worker& w, Worker& owner, const SharedArray& array, size_t offset, ByteShadow& s, Access access) {
  const uint32_t now = w.cluster->meets + 1, me = number_of(w);
  const bool far = &w != &owner, writes = access != Access::Read;
  if (s.far_writer && s.far_write_meets == now && s.far_writer != me) fail_far(owner, access, array, offset, s.far_writer, "wrote");
  if (writes && s.far_reader && s.far_read_meets == now && s.far_reader != me) fail_far(owner, access, array, offset, s.far_reader, "read");
  if (far) {
    const uint32_t own = owner.rank * MAX_THREADS;
    if (s.write_meets == now) fail_far(owner, access, array, offset, own + (s.writer ? s.writer : 1), "wrote");
    if (writes && s.read_meets == now) fail_far(owner, access, array, offset, own + (s.reader ? s.reader : 1), "read");
    if (writes) s.far_writer = me, s.far_write_meets = now;
    else s.far_reader = me, s.far_read_meets = now;
  } else {
    (writes ? s.write_meets : s.read_meets) = now;
  }
}

// Shared memory of another block of the cluster.
void check_far(Worker& w, Worker& owner, uintptr_t at, size_t bytes, Access access) {
  const SharedArray* array = shared_at(owner, reinterpret_cast<const void*>(at), bytes);
  if (!array) fail_shared(owner, at, bytes, access);
  if (owner.n_left == 0) fail("%s shared memory of block %u of its cluster, which has ended", verb(access), owner.rank);
  const size_t offset = at - reinterpret_cast<uintptr_t>(array->start);
  ByteShadow* shadow = owner.shadow + (at - reinterpret_cast<uintptr_t>(owner.arena));
  for (size_t i = 0; i < bytes; ++i) {
    if (access != Access::Write && !shadow[i].written) {
      fail("uninitialised: reads byte %zu of shared array `%s` of block %u, which nobody has written", offset + i, array->name, owner.rank);
    }
    check_cluster(w, owner, *array, offset + i, shadow[i], access);
    shadow[i].written |= access == Access::Write;
  }
}

void check_shared(Worker& w, uintptr_t at, size_t bytes, Access access) {
  const SharedArray* array = shared_at(w, reinterpret_cast<const void*>(at), bytes);
  if (!array) fail_shared(w, at, bytes, access);
  const Thread& self = *w.self;
  const uint16_t me = static_cast<uint16_t>(self.warp * WARP + self.lane + 1);
  const uint32_t sync = w.warps[self.warp].syncs;
  const size_t offset = at - reinterpret_cast<uintptr_t>(array->start);
  ByteShadow* shadow = w.shadow + (at - reinterpret_cast<uintptr_t>(w.arena));
  for (size_t i = 0; i < bytes; ++i) {
    ByteShadow& s = shadow[i];
    if (access != Access::Write && !s.written) {
      fail("uninitialised: reads byte %zu of shared array `%s`, which nobody has written", offset + i, array->name);
    }
    if (w.cluster) check_cluster(w, w, *array, offset + i, s, access);
    if (access == Access::Atomic) continue;
    const bool same_warp = s.writer && (s.writer - 1) / WARP == self.warp;
    if (s.writer && s.writer != me && s.write_epoch == w.epoch && !(same_warp && s.write_sync != sync)) {
      fail_race(w, verb(access), *array, offset + i, s.writer);
    }
    if (access == Access::Read) {
      const bool fresh = !s.reader || s.read_epoch != w.epoch || (s.reader_warp == self.warp && s.read_sync != sync);
      s.reader_warp = fresh || s.reader_warp == self.warp ? static_cast<uint8_t>(self.warp) : SEVERAL;
      // Of several readers one that is not the next writer must be remembered: the first stays.
      if (fresh || s.reader == me) s.reader = me;
      else s.others = true;
      if (fresh) s.others = false;
      s.read_epoch = w.epoch;
      s.read_sync = sync;
    } else {
      const bool read_now = s.reader && s.read_epoch == w.epoch && !(s.reader_warp == self.warp && s.read_sync != sync);
      if (read_now && (s.reader != me || s.others)) fail_race(w, "writes", *array, offset + i, s.reader);
      s.written = true;
      s.writer = me;
      s.write_epoch = w.epoch;
      s.write_sync = sync;
      s.write_fences = self.proxy_fences;
    }
  }
}

}  // namespace

void check_access(const void* pointer, size_t bytes, Access access) {
  if (!g_worker || !bytes) return;
  Worker& w = *g_worker;
  const uintptr_t at = reinterpret_cast<uintptr_t>(pointer);
  if (inside(at, bytes, w.stacks, MAX_THREADS * STACK_BYTES)) return;
  if (inside(at, 1, w.arena, ARENA_BYTES)) return check_shared(w, at, bytes, access);
  if (Worker* owner = w.cluster ? block_at(w, pointer) : nullptr) return check_far(w, *owner, at, bytes, access);
  const Launch& launch = *w.launch;
  for (uint32_t i = 0; i < launch.n_ranges; ++i) {
    const Range& range = launch.ranges[i];
    if (at >= range.start && at + bytes <= range.end) {
      if (access != Access::Read && !range.writable) fail("writes to argument %u, which is an input", range.argument);
      return;
    }
  }
  // The emulator's own: indices, argument blocks, tables of constants.
  if (inside(at, bytes, &w, sizeof w) || inside(at, bytes, &g_worker, sizeof g_worker)) return;
  if (access == Access::Read) {
    if (__executable_start && inside(at, bytes, __executable_start, static_cast<size_t>(_end - __executable_start))) return;
    if (inside(at, bytes, launch.args, MAX_ARGS_BYTES) || inside(at, bytes, &launch, sizeof launch)) return;
    for (const char* p = launch.entry->parameters; *p; ++p) {
      if (inside(at, bytes, launch.args[p - launch.entry->parameters], *p == 'm' ? sizeof(TensorMap) : 8)) return;
    }
  }
  fail_outside(launch, at, bytes, access);
}

void check_forget(Worker& w, const void* at, size_t bytes) {
  if (!w.shadow) {
    w.shadow = static_cast<ByteShadow*>(calloc(ARENA_BYTES, sizeof(ByteShadow)));
    if (!w.shadow) fail("out of memory");
  }
  if (!inside(reinterpret_cast<uintptr_t>(at), bytes, w.arena, ARENA_BYTES)) return;
  memset(static_cast<void*>(w.shadow + (static_cast<const char*>(at) - w.arena)), 0, bytes * sizeof(ByteShadow));
}

void check_async_read(const void* at, size_t bytes) {
  Worker& w = *g_worker;
  const SharedArray* array = shared_at(w, at, bytes);
  if (!array) fail_shared(w, reinterpret_cast<uintptr_t>(at), bytes, Access::Read);
  const ByteShadow* shadow = w.shadow + (static_cast<const char*>(at) - w.arena);
  const size_t offset = static_cast<size_t>(static_cast<const char*>(at) - array->start);
  for (size_t i = 0; i < bytes; ++i) {
    const ByteShadow& s = shadow[i];
    if (!s.written) fail("uninitialised: wgmma reads byte %zu of shared array `%s`, which nobody has written", offset + i, array->name);
    if (s.writer && w.threads[s.writer - 1].proxy_fences == s.write_fences) {
      const Index3 t = w.threads[s.writer - 1].index;
      fail("unfenced: wgmma reads byte %zu of shared array `%s`, thread (%u, %u, %u) wrote it without fence.proxy.async after",
           offset + i, array->name, t.x, t.y, t.z);
    }
  }
}

void check_async_write(Worker& w, const void* at, size_t bytes) {
  check_forget(w, at, bytes);
  ByteShadow* shadow = w.shadow + (static_cast<const char*>(at) - w.arena);
  for (size_t i = 0; i < bytes; ++i) shadow[i].written = true;
}

}  // namespace emu

using emu::Access;
using emu::check_access;
using emu::fail;

namespace {

// A kernel's access, at a place of its code.
inline void seen(const void* at, size_t bytes, Access access, const void* place) {
  if (!emu::g_worker) return;
  emu::check_dependent(at, bytes, access);
  if (emu::counted()) return emu::count_access(at, bytes, access, place);
  if (emu::checked()) check_access(at, bytes, access);
}

}  // namespace

// What the thread sanitizer calls.
extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
#define HAGGLE_EMU_PLACE __builtin_return_address(0)
void __tsan_read_range(void* at, unsigned long n) { seen(at, n, Access::Read, HAGGLE_EMU_PLACE); }
void __tsan_write_range(void* at, unsigned long n) { seen(at, n, Access::Write, HAGGLE_EMU_PLACE); }

#define HAGGLE_EMU_TSAN(n)                                                                          \
  void __tsan_read##n(void* at) { seen(at, n, Access::Read, HAGGLE_EMU_PLACE); }                    \
  void __tsan_write##n(void* at) { seen(at, n, Access::Write, HAGGLE_EMU_PLACE); }                  \
  void __tsan_unaligned_read##n(void* at) { seen(at, n, Access::Read, HAGGLE_EMU_PLACE); }          \
  void __tsan_unaligned_write##n(void* at) { seen(at, n, Access::Write, HAGGLE_EMU_PLACE); }        \
  void __tsan_volatile_read##n(void* at) { seen(at, n, Access::Read, HAGGLE_EMU_PLACE); }           \
  void __tsan_volatile_write##n(void* at) { seen(at, n, Access::Write, HAGGLE_EMU_PLACE); }
HAGGLE_EMU_TSAN(1)
HAGGLE_EMU_TSAN(2)
HAGGLE_EMU_TSAN(4)
HAGGLE_EMU_TSAN(8)
HAGGLE_EMU_TSAN(16)

#define HAGGLE_EMU_TSAN_ATOMIC(bits, T)                                                            \
  T __tsan_atomic##bits##_load(const volatile T* at, int) {                                        \
    seen(const_cast<const T*>(at), sizeof(T), Access::Read, HAGGLE_EMU_PLACE);             \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                                  \
  }                                                                                                \
  void __tsan_atomic##bits##_store(volatile T* at, T x, int) {                                     \
    seen(const_cast<const T*>(at), sizeof(T), Access::Write, HAGGLE_EMU_PLACE);            \
    __atomic_store_n(at, x, __ATOMIC_SEQ_CST);                                                     \
  }                                                                                                \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* at, T* want, T x, int, int) {      \
    seen(const_cast<const T*>(at), sizeof(T), Access::Atomic, HAGGLE_EMU_PLACE);           \
    return __atomic_compare_exchange_n(at, want, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);    \
  }                                                                                                \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* at, T* want, T x, int, int) {        \
    seen(const_cast<const T*>(at), sizeof(T), Access::Atomic, HAGGLE_EMU_PLACE);           \
    return __atomic_compare_exchange_n(at, want, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);    \
  }                                                                                                \
  HAGGLE_EMU_TSAN_FETCH(bits, T, fetch_add, __atomic_fetch_add)                                    \
  HAGGLE_EMU_TSAN_FETCH(bits, T, fetch_sub, __atomic_fetch_sub)                                    \
  HAGGLE_EMU_TSAN_FETCH(bits, T, fetch_and, __atomic_fetch_and)                                    \
  HAGGLE_EMU_TSAN_FETCH(bits, T, fetch_or, __atomic_fetch_or)                                      \
  HAGGLE_EMU_TSAN_FETCH(bits, T, fetch_xor, __atomic_fetch_xor)                                    \
  HAGGLE_EMU_TSAN_FETCH(bits, T, exchange, __atomic_exchange_n)
#define HAGGLE_EMU_TSAN_FETCH(bits, T, name, builtin)                 \
  T __tsan_atomic##bits##_##name(volatile T* at, T x, int) {          \
    seen(const_cast<const T*>(at), sizeof(T), Access::Atomic, HAGGLE_EMU_PLACE); \
    return builtin(at, x, __ATOMIC_SEQ_CST);                          \
  }
HAGGLE_EMU_TSAN_ATOMIC(32, uint32_t)
HAGGLE_EMU_TSAN_ATOMIC(64, uint64_t)
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// What the undefined-behaviour sanitizer calls: each is given where it happened first.
struct Place {
  const char* file;
  uint32_t line, column;
};

struct TypeMismatch {
  Place place;
  const void* type;
  unsigned char log_alignment, kind;
};

void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, uintptr_t pointer) {
  const size_t alignment = static_cast<size_t>(1) << data->log_alignment;
  if (pointer % alignment) {
    fail("misaligned access at %s:%u: address %#zx is no multiple of %zu", data->place.file, data->place.line,
         static_cast<size_t>(pointer), alignment);
  }
  fail("null pointer or too small an object at %s:%u (address %#zx, kind %d)", data->place.file, data->place.line, static_cast<size_t>(pointer), data->kind);
}

#define HAGGLE_EMU_UBSAN(name, what) \
  void __ubsan_handle_##name(Place* place) { fail("%s at %s:%u", what, place->file, place->line); }
HAGGLE_EMU_UBSAN(add_overflow, "integer overflow")
HAGGLE_EMU_UBSAN(sub_overflow, "integer overflow")
HAGGLE_EMU_UBSAN(mul_overflow, "integer overflow")
HAGGLE_EMU_UBSAN(negate_overflow, "integer overflow")
HAGGLE_EMU_UBSAN(divrem_overflow, "division by zero or overflow")
HAGGLE_EMU_UBSAN(shift_out_of_bounds, "shift out of bounds")
HAGGLE_EMU_UBSAN(out_of_bounds, "array index out of bounds")
HAGGLE_EMU_UBSAN(pointer_overflow, "pointer overflow")
HAGGLE_EMU_UBSAN(float_cast_overflow, "float does not fit the integer")
HAGGLE_EMU_UBSAN(load_invalid_value, "invalid bool or enum")
HAGGLE_EMU_UBSAN(builtin_unreachable, "unreachable code reached")
HAGGLE_EMU_UBSAN(missing_return, "no value returned")
HAGGLE_EMU_UBSAN(vla_bound_not_positive, "array of no elements")
HAGGLE_EMU_UBSAN(nonnull_arg, "null argument")
HAGGLE_EMU_UBSAN(nonnull_return_v1, "null returned")
HAGGLE_EMU_UBSAN(invalid_builtin, "invalid argument of a builtin")

}  // extern "C"
