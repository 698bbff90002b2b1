// The emulator's runtime: one fiber per CUDA thread, one operating-system thread per block at a time.
//
// A block runs on a `Worker`. Its threads run one after another until they wait: at a block barrier, or in a warp
// operation (shuffle, vote, mma ...), whose last lane to arrive does the work of all. A thread that never waits needs
// no fiber of its own. Who runs next is the lowest ready lane of the current warp, or, with a seed, a random one.
// What a kernel does wrong becomes a `Report`, and the launch ends.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace emu {

constexpr uint32_t WARP = 32;
constexpr uint32_t MAX_THREADS = 1024;
constexpr uint32_t MAX_WARPS = MAX_THREADS / WARP;
constexpr size_t MAX_SHARED_BYTES = 227 * 1024;  // what a block may have on sm_90
constexpr size_t STACK_BYTES = 96 * 1024;
constexpr size_t COLOURS = 128, COLOUR_BYTES = 192;  // stack tops of one alignment would share few cache sets
constexpr uint32_t MAX_SLOTS = 4096;  // static shared arrays of all kernels together
constexpr uint8_t GUARD = 0xA5;
constexpr size_t GUARD_BYTES = 64;
constexpr size_t ARENA_BYTES = MAX_SHARED_BYTES + 66 * (GUARD_BYTES + 128);
constexpr size_t MAX_ARGS_BYTES = 32 * sizeof(void*);
constexpr uint8_t POISON = 0xFF;  // NaN in every float type, -1 in every int type

struct Index3 {
  uint32_t x, y, z;
};

// What a kernel did wrong: the first of the lowest block. Read by Rust (src/device/gpu/emu.rs).
struct Report {
  uint32_t set;
  Index3 block, thread;
  char what[320];
};

// Memory a launch may touch: one pointer argument's view.
struct Range {
  uintptr_t start, end;
  uint32_t argument, writable;
};

// How a kernel was built: as it is, with every access checked (check.h), or counted (count.h).
enum class Build : uint32_t { Plain, Checked, Counted };

// A kernel: how to call it with an argument block, and its parameters, a letter each
// (p pointer, i 32-bit int, l 64-bit int, f float, m tensor map).
struct Entry {
  const char* name;
  void (*call)(void** args);
  const char* parameters;
  Build build;
  uint32_t restricted;  // the parameters that are __restrict__, a bit each
  uint32_t cluster;     // blocks that run together
};

// What a counted launch did: added up over its blocks, but for the last three, whose most is kept. A request is one
// instruction of a warp. Read by Rust (src/device/gpu/counts.rs).
struct Counts {
  uint64_t read_requests, read_sectors, write_requests, write_sectors;  // global memory; a sector is 32 bytes
  uint64_t shared_requests, shared_wavefronts, shared_ideal;            // cycles of the banks, and without conflicts
  uint64_t mma_flops, wgmma_flops, barriers;
  uint64_t copied_bytes;                  // that cp.async and bulk copies read
  uint64_t early_bytes;                   // of those, and of prefetches, asked for before griddepcontrol.wait
  uint64_t worst_conflict, shared_bytes;  // words asked of one bank at once; of a block
  uint64_t flight_bytes;                  // of a block's copies, under way at once
};
constexpr size_t ADDED_COUNTS = 12;

// Memory that a launch before may still be writing, as one that begins early must think: see dependent.h.
struct Pending {
  uintptr_t start, end;
  uint32_t argument, back;  // of that launch, so many before
  const char* kernel;       // not ended by 0
  size_t kernel_bytes;
};

struct Launch {
  const Entry* entry;
  void** args;
  Index3 grid, block;
  uint32_t shared_bytes;
  uint32_t tensor_cores;  // whose: HOPPER or AMPERE, see mma.h
  uint32_t n_ranges;
  const Range* ranges;
  uint32_t dependent;       // it may begin before the launches before it have ended
  uint32_t n_pending;
  const Pending* pending;
  uint64_t waits;           // threads that have waited for those, counted atomically
  Counts* counts;   // null: not counted
  uint8_t* marks;   // of every sector of the ranges, one after another: 1 read, 2 written
  uint64_t seed;        // 0: natural order
  uint64_t next_turn;  // taken atomically
  uint64_t turns;        // a cluster each, spread evenly over those from `first_cluster` on
  uint64_t first_cluster;
  uint64_t failed_block;
  uint32_t lock;
  Report report;
};

// One copy that cp.async has begun.
struct Copy {
  void* to;
  const void* from;
  uint32_t bytes, from_bytes, group;
};

struct Fiber {
  void* sp;  // while no thread is on it
  char* stack;
  Fiber* next_free;
};

enum class Wait : uint8_t { None, Barrier, Warp, Mbarrier, Cluster };
enum class Op : uint8_t { None, SyncWarp, Shuffle, Vote, Match, LdMatrix, Mma, Wgmma, WgmmaWait };

// What a switch touches stands in the first cache line.
struct alignas(64) Thread {
  void* sp;
  Fiber* fiber;  // null: not begun, or done
  const char* file;
  int line;
  uint8_t lane, warp;
  Wait wait;
  bool done;
  // The warp operation this lane waits in.
  uint32_t mask, arg;
  uint64_t value, result;
  Op op;
  Index3 index;
  const void* fragments[4];
  // cp.async
  Copy* copies;
  uint32_t n_copies, max_copies, groups;
  // Bytes that copies of this thread read and have not brought, and the most so far.
  uint32_t flying, most_flying;
  // sm_90: the mbarrier this thread waits at, and for which parity; what it has fenced.
  const void* mbarrier;
  uint32_t parity, proxy_fences;
  bool wgmma_fenced;
  bool waited;  // for the launches before: griddepcontrol.wait
};

struct Warp {
  uint32_t ready, pending, alive, exist, syncs;
};

struct ByteShadow;
struct Counter;
struct Async;
struct Cluster;

struct SharedArray {
  const char* name;
  char* start;
  size_t bytes;
};

struct Worker {
  Thread* self;
  Index3 block_index, block_dim, grid_dim;
  Thread threads[MAX_THREADS + 4];  // four more, so that a look ahead stays inside
  Warp warps[MAX_WARPS];
  uint32_t n_threads, n_warps, n_left, ready_warps, warp;
  // The block barrier.
  uint32_t arrived, count, all, any, barrier_count, barrier_all, barrier_any, epoch;
  const char* barrier_file;
  int barrier_line;
  // Shared memory: dynamic first, then static arrays as they are met.
  char* arena;
  size_t arena_used;
  ByteShadow* shadow;
  SharedArray arrays[64];
  uint32_t n_arrays;
  uint64_t block_number;
  uint64_t run;  // blocks this worker has run so far
  uint64_t slot_run[MAX_SLOTS];
  char* slot_start[MAX_SLOTS];
  Fiber fibers[MAX_THREADS];
  Fiber* free_fibers;
  void* main_sp;
  char* stacks;
  Async* async;     // what sm_90 does by itself, see async.h
  uint32_t n_bulk;  // bulk copies under way
  uint64_t random;
  Launch* launch;
  Counter* counter;  // made by the first counted launch
  Cluster* cluster;  // of the block, null where it has none
  uint32_t rank;     // in it
  Cluster* own_cluster;  // made by the first launch of clusters; see cluster.h
  bool counting, failed;
};

extern __thread Worker* g_worker;  // not thread_local: its wrapper confuses the checker's test for null

inline const Index3& thread_index() { return g_worker->self->index; }
inline const Index3& block_index() { return g_worker->block_index; }
inline const Index3& block_dim() { return g_worker->block_dim; }
inline const Index3& grid_dim() { return g_worker->grid_dim; }

// Ends the launch with a report about the current thread.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The block barrier; `count`, `all`, `any` of the predicate are in the worker afterwards.
void sync_threads(uint32_t predicate, const char* file, int line);

// Waits for the lanes of `mask` in operation `op`. True for the last to arrive, who does the work of all of them
// (their deposits are in their `Thread`s) before any of them goes on.
bool collective(Op op, uint32_t mask, const char* file, int line);

// All threads of a block may go on; `fences`: and see what each of them has written.
void all_of_block_meet(Worker& w, bool fences = true);
// A file of kernels/, for people.
const char* short_name(const char* file);

// The current thread waits until `wake`; and that.
void sleep_until_woken(Wait why);
void wake(Worker& w, Thread& thread);
// A random number of the launch's order of threads; 0 in the natural order.
uint32_t random_turn(Worker& w);

// A lane of the current warp.
inline Thread& lane_of(uint32_t lane) {
  Thread* self = g_worker->self;
  return *(self - self->lane + lane);
}

// Shared memory of the current block.
void* shared_dynamic();
void* shared_static(uint32_t* slot, const char* name, size_t bytes);

char* shared_new();
void shared_start(Worker& w, size_t dynamic_bytes);    // poisons what the block before has used
const SharedArray* shared_overrun(const Worker& w);    // an array whose guard was written
const SharedArray* shared_at(const Worker& w, const void* at, size_t bytes);  // the array these bytes lie in

// cp.async: the copy happens when it is waited for; until then its target is poison.
void copy_takes_off(Thread& t, uint32_t bytes);
void copy_begin(void* to, const void* from, uint32_t bytes, uint32_t from_bytes);
void copy_commit();
void copy_wait(uint32_t groups_left);
// cp.async.bulk.prefetch.L2: nothing but counted.
void bulk_prefetch(const void* at, uint32_t bytes);

}  // namespace emu
