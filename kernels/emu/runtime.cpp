// See runtime.h: workers, blocks, barriers, warps.

#include "emu/runtime.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "emu/async.h"
#include "emu/cluster.h"
#include "emu/count.h"
#include "emu/fiber.h"

namespace emu {

__thread Worker* g_worker = nullptr;

namespace {

constexpr size_t USABLE_BYTES = STACK_BYTES - COLOURS * COLOUR_BYTES;
constexpr uint64_t STACK_CANARY = 0x5AFE57AC5AFE57ACull;

uint64_t& canary(Fiber* fiber) { return *reinterpret_cast<uint64_t*>(fiber->stack); }

uint32_t next_random(Worker& w) {
  w.random ^= w.random << 13;
  w.random ^= w.random >> 7;
  w.random ^= w.random << 17;
  return static_cast<uint32_t>(w.random >> 32);
}

// Index of a set bit: the lowest, or with a seed a random one.
uint32_t choose(Worker& w, uint32_t bits) {
  if (w.launch->seed == 0) return __builtin_ctz(bits);
  const uint32_t turn = next_random(w) & 31;
  const uint32_t turned = (bits >> turn) | (bits << ((32 - turn) & 31));
  return (__builtin_ctz(turned) + turn) & 31;
}

// The next thread to run, taken off the ready ones; null when none is ready.
Thread* take_ready(Worker& w) {
  Warp* warp = &w.warps[w.warp];
  if (!warp->ready) {
    if (!w.ready_warps) return nullptr;
    w.warp = choose(w, w.ready_warps);
    warp = &w.warps[w.warp];
  }
  const uint32_t lane = choose(w, warp->ready);
  warp->ready &= ~(1u << lane);
  if (!warp->ready) w.ready_warps &= ~(1u << w.warp);
  return &w.threads[w.warp * WARP + lane];
}

void set_ready(Worker& w, uint32_t warp, uint32_t lanes) {
  w.warps[warp].ready |= lanes;
  if (w.warps[warp].ready) w.ready_warps |= 1u << warp;
}

// The same, when bulk copies may be under way: they complete when nobody can run without, as late as they can, or, with
// a seed, at some time before.
Thread* next_thread(Worker& w) {
  if (__builtin_expect(w.n_bulk != 0, 0) && w.launch->seed && next_random(w) % 8 == 0) bulk_complete(w);
  for (;;) {
    Thread* next = take_ready(w);
    if (next || !w.n_bulk) return next;
    bulk_complete(w);
  }
}

// The worker of the thread's own cluster, or block, that runs it.
Worker& runner_of(Worker& w) { return w.cluster ? *w.cluster->blocks[0] : w; }

// The same of the cluster: of this block while it has any, else, or with a seed at any time, of another, whose worker `w` becomes.
// A copy that one block has asked for may be what another waits for.
Thread* next_of_cluster(Worker*& w) {
  const Cluster& cluster = *w->cluster;
  uint32_t first = w->rank;
  if (w->launch->seed && next_random(*w) % 8 == 0) first = next_random(*w);
  if (w->n_bulk && w->launch->seed && next_random(*w) % 8 == 0) bulk_complete(*w);
  for (;;) {
    Worker* asked = nullptr;
    for (uint32_t i = 0; i < cluster.n_blocks; ++i) {
      Worker* block = cluster.blocks[(first + i) % cluster.n_blocks];
      if (Thread* next = take_ready(*block)) {
        w = block;
        return next;
      }
      if (block->n_bulk && !asked) asked = block;
    }
    if (!asked) return nullptr;
    bulk_complete(*asked);
  }
}

[[noreturn]] void leave_block(Worker& w) {
  void* abandoned;
  haggle_emu_switch(&abandoned, runner_of(w).main_sp);
  abort();  // an abandoned fiber is never resumed
}

// Writes the report of this launch, unless a lower block has.
void write_report(Worker& w, const Thread& thread, const char* format, va_list rest) {
  Launch& launch = *w.launch;
  while (__atomic_exchange_n(&launch.lock, 1, __ATOMIC_ACQUIRE)) {
  }
  const uint64_t block = w.block_number;
  if (!launch.report.set || block < launch.failed_block) {
    launch.failed_block = block;
    launch.report.set = 1;
    launch.report.block = w.block_index;
    launch.report.thread = thread.index;
    vsnprintf(launch.report.what, sizeof launch.report.what, format, rest);
  }
  __atomic_store_n(&launch.lock, 0, __ATOMIC_RELEASE);
  w.failed = true;
}

void report(Worker& w, const Thread& thread, const char* format, ...) {
  va_list rest;
  va_start(rest, format);
  write_report(w, thread, format, rest);
  va_end(rest);
}

// Threads of a cluster wait for each other and not all will come.
[[noreturn]] void report_cluster(Worker& w) {
  const Cluster& cluster = *w.cluster;
  const Thread *waits = nullptr, *absent = nullptr;
  uint32_t waiting = 0, lacking = 0;
  for (uint32_t b = 0; b < cluster.n_blocks; ++b) {
    for (uint32_t i = 0; i < cluster.blocks[b]->n_threads; ++i) {
      const Thread& t = cluster.blocks[b]->threads[i];
      const bool is_there = !t.done && t.wait == Wait::Cluster;
      if (is_there && !waits) waits = &t, waiting = b;
      if (!is_there && !absent) absent = &t, lacking = b;
    }
  }
  if (!waits || !absent) {
    report(w, *w.self, "deadlock: no thread of the cluster can go on");
  } else {
    report(*cluster.blocks[waiting], *waits, "divergent barrier.cluster: waits at %s:%d, thread (%u, %u, %u) of block %u of its cluster %s",
           short_name(waits->file), waits->line, absent->index.x, absent->index.y, absent->index.z, lacking,
           absent->done ? "has returned" : "waits elsewhere");
  }
  leave_block(w);
}

// Nobody can go on: says who waits where, and who will not come.
[[noreturn]] void report_deadlock(Worker& w) {
  const Thread *barrier = nullptr, *warp = nullptr, *mbarrier = nullptr, *done = nullptr;
  Worker* lacking = nullptr;
  for (uint32_t i = 0; i < w.n_threads; ++i) {
    const Thread& t = w.threads[i];
    if (t.done && !done) done = &t;
    if (!t.done && t.wait == Wait::Barrier && !barrier) barrier = &t;
    if (!t.done && t.wait == Wait::Warp && !warp) warp = &t;
  }
  for (uint32_t b = 0; b < (w.cluster ? w.cluster->n_blocks : 1); ++b) {
    Worker& block = w.cluster ? *w.cluster->blocks[b] : w;
    for (uint32_t i = 0; i < block.n_threads && !mbarrier; ++i) {
      const Thread& t = block.threads[i];
      if (!t.done && t.wait == Wait::Mbarrier) mbarrier = &t, lacking = &block;
    }
  }
  if (mbarrier) {
    char lacks[160];
    mbarrier_lacks(*lacking, *mbarrier, lacks, sizeof lacks);
    report(*lacking, *mbarrier, "deadlock: waits for %s", lacks);
  } else if (warp) {
    const uint32_t missing = warp->mask & w.warps[warp->warp].exist & ~w.warps[warp->warp].pending;
    const Thread& absent = w.threads[warp->warp * WARP + (missing ? __builtin_ctz(missing) : 0)];
    report(w, *warp, "divergent warp operation at %s:%d: lane %u of its mask %#x never comes, it %s", short_name(warp->file),
           warp->line, absent.lane, warp->mask, absent.done ? "has returned" : "waits elsewhere");
  } else if (barrier && done) {
    report(w, *barrier, "divergent barrier: waits at %s:%d, but thread (%u, %u, %u) has returned", short_name(barrier->file),
           barrier->line, done->index.x, done->index.y, done->index.z);
  } else if (w.cluster) {
    report_cluster(w);
  } else {
    report(w, *w.self, "deadlock: no thread of the block can go on");
  }
  leave_block(w);
}

Fiber* take_fiber(Worker& w) {
  Fiber* fiber = w.free_fibers;
  w.free_fibers = fiber->next_free;
  return fiber;
}

// Puts a thread on a fiber of its own.
void begin(Worker& w, Thread& thread) {
  thread.fiber = take_fiber(w);
  thread.sp = thread.fiber->sp;
}

void give_fiber(Worker& w, Fiber* fiber) {
  fiber->next_free = w.free_fibers;
  w.free_fibers = fiber;
}

// The current thread waits; goes on with another, and returns when it is its turn again.
inline __attribute__((always_inline)) void suspend(Worker& w) {
  Thread* self = w.self;
  Worker* to = &w;
  Thread* next = __builtin_expect(w.cluster != nullptr, 0) ? next_of_cluster(to) : next_thread(w);
  if (__builtin_expect(!next, 0)) report_deadlock(w);
  if (next == self) return;
  to->self = next;
  if (__builtin_expect(!next->fiber, 0)) begin(*to, *next);
  // A switch waits for memory more than for anything: ask for the stacks that are probably next.
  const char* ahead = static_cast<const char*>(next[1].sp);
  __builtin_prefetch(ahead);
  __builtin_prefetch(ahead + 64);
  __builtin_prefetch(ahead + 128);
  __builtin_prefetch(&next[3]);
  g_worker = to;
  haggle_emu_switch(&self->sp, next->sp);
}

// The life of a fiber: it runs the current thread, then another on the same stack, or goes to sleep.
void fiber_main() {
  Worker& w = *g_worker;
  for (;;) {
    w.launch->entry->call(w.launch->args);
    Thread* self = w.self;
    self->done = true;
    w.warps[self->warp].alive &= ~(1u << self->lane);
    Fiber* fiber = self->fiber;
    self->fiber = nullptr;
    if (canary(fiber) != STACK_CANARY) fail("local variables need more than %zu bytes of stack", USABLE_BYTES);
    if (--w.n_left == 0 && (!w.cluster || --w.cluster->n_left == 0)) {
      give_fiber(w, fiber);
      g_worker = &runner_of(w);
      haggle_emu_switch(&fiber->sp, g_worker->main_sp);
      continue;
    }
    Worker* to = &w;
    Thread* next = w.cluster ? next_of_cluster(to) : next_thread(w);
    if (!next) report_deadlock(w);
    to->self = next;
    if (to == &w && !next->fiber) {
      next->fiber = fiber;
      continue;
    }
    give_fiber(w, fiber);
    if (!next->fiber) begin(*to, *next);
    g_worker = to;
    haggle_emu_switch(&fiber->sp, next->sp);
  }
}

// Every fiber afresh: at birth, and after a launch whose fibers were abandoned.
void prepare_fibers(Worker& w) {
  w.free_fibers = nullptr;
  for (uint32_t i = MAX_THREADS; i-- > 0;) {
    Fiber* fiber = &w.fibers[i];
    fiber->stack = w.stacks + i * STACK_BYTES;
    fiber->sp = fiber_prepare(fiber->stack, STACK_BYTES - i % COLOURS * COLOUR_BYTES, fiber_main);
    canary(fiber) = STACK_CANARY;
    give_fiber(w, fiber);
  }
}

void start_threads(Worker& w) {
  const Index3 dim = w.block_dim;
  w.n_threads = w.n_left = dim.x * dim.y * dim.z;
  w.n_warps = (w.n_threads + WARP - 1) / WARP;
  w.arrived = w.count = w.any = w.epoch = 0;
  w.all = 1;
  w.ready_warps = 0;
  w.failed = false;
  for (uint32_t i = 0; i < w.n_threads; ++i) {
    Thread& t = w.threads[i];
    t.index = {i % dim.x, i / dim.x % dim.y, i / dim.x / dim.y};
    t.warp = static_cast<uint8_t>(i / WARP);
    t.lane = static_cast<uint8_t>(i % WARP);
    t.fiber = nullptr;
    t.wait = Wait::None;
    t.done = false;
    t.n_copies = t.groups = t.proxy_fences = t.flying = t.most_flying = 0;
    t.mbarrier = nullptr;
    t.wgmma_fenced = false;
    t.waited = !w.launch->dependent;
  }
  for (uint32_t i = 0; i < w.n_warps; ++i) {
    const uint32_t lanes = w.n_threads - i * WARP;
    const uint32_t exist = lanes >= WARP ? ~0u : (1u << lanes) - 1;
    w.warps[i] = {0, 0, exist, exist, 0};
    set_ready(w, i, exist);
  }
  w.warp = choose(w, w.ready_warps);
}

// One of the turn-th of `turns` equal parts of `n`, at another place in each part, by the golden ratio, so that no width of the
// grid has them in one column. Turn itself where there are as many parts.
uint64_t one_of(uint64_t turn, uint64_t turns, uint64_t n) {
  using Wide = unsigned __int128;
  const uint64_t start = static_cast<uint64_t>(Wide{turn} * n / turns), end = static_cast<uint64_t>((Wide{turn} + 1) * n / turns);
  const uint32_t place = static_cast<uint32_t>(turn) * 2654435769u + 0x80000000u;
  return start + static_cast<uint64_t>(Wide{end - start} * place >> 32);
}

void start_block(Worker& w, uint64_t number) {
  Launch& launch = *w.launch;
  const Index3 grid = launch.grid;
  w.block_number = number;
  ++w.run;
  w.block_index = {static_cast<uint32_t>(number % grid.x), static_cast<uint32_t>(number / grid.x % grid.y),
                   static_cast<uint32_t>(number / grid.x / grid.y)};
  w.random = (launch.seed + 1) * 0x9E3779B97F4A7C15ull ^ (number + 1) * 0xD1B54A32D192ED03ull;
  shared_start(w, launch.shared_bytes);
  start_threads(w);
  async_start(w);
}

// What a block leaves behind that it must not.
void end_block(Worker& w) {
  if (const SharedArray* array = shared_overrun(w)) {
    report(w, w.threads[0], "some thread of this block wrote behind the shared array `%s` of %zu bytes", array->name,
           array->bytes);
  }
  uint32_t thread = 0;
  if (const char* left = async_left(w, &thread)) report(w, w.threads[thread], "%s", left);
}

// Runs a cluster: one block, or several together.
void run_cluster(Worker& w, uint64_t number) {
  const uint32_t n_blocks = w.launch->entry->cluster;
  Cluster* cluster = n_blocks > 1 ? cluster_of(w, n_blocks) : nullptr;
  w.cluster = cluster;
  if (n_blocks > 1 && !cluster) return report(w, w.threads[0], "out of memory for the %u blocks of a cluster", n_blocks);
  Worker* alone[] = {&w};
  Worker** blocks = cluster ? cluster->blocks : alone;
  for (uint32_t i = 0; i < n_blocks; ++i) start_block(*blocks[i], number * n_blocks + i);
  Thread* first = take_ready(w);
  begin(w, *first);
  w.self = first;
  haggle_emu_switch(&w.main_sp, first->sp);
  g_worker = &w;
  bool failed = false;
  for (uint32_t i = 0; i < n_blocks; ++i) {
    if (w.counting) count_block_ends(*blocks[i]);
    failed |= blocks[i]->failed;
  }
  for (uint32_t i = 0; i < n_blocks; ++i) failed ? prepare_fibers(*blocks[i]) : end_block(*blocks[i]);
}

}  // namespace

const char* short_name(const char* file) {
  const char* kernels = strstr(file, "kernels/");
  return kernels ? kernels + strlen("kernels/") : file;
}

void fail(const char* format, ...) {
  Worker& w = *g_worker;
  va_list rest;
  va_start(rest, format);
  write_report(w, *w.self, format, rest);
  va_end(rest);
  leave_block(w);
}

void sync_threads(uint32_t predicate, const char* file, int line) {
  Worker& w = *g_worker;
  Thread* self = w.self;
  if (w.arrived == 0) {
    w.barrier_file = file;
    w.barrier_line = line;
  } else if (w.barrier_line != line || w.barrier_file != file) {
    fail("divergent barrier: waits at %s:%d, others of its block at %s:%d", short_name(file), line,
         short_name(w.barrier_file), w.barrier_line);
  }
  w.count += predicate != 0;
  w.all &= predicate != 0;
  w.any |= predicate != 0;
  self->file = file;
  self->line = line;
  if (++w.arrived < w.n_threads) {
    self->wait = Wait::Barrier;
    suspend(w);
    self->wait = Wait::None;
    return;
  }
  w.barrier_count = w.count;
  w.barrier_all = w.all;
  w.barrier_any = w.any;
  w.arrived = w.count = w.any = 0;
  w.all = 1;
  all_of_block_meet(w);
  // The last to arrive goes to the end of the line too: who is first after a barrier is the scheduler's choice.
  suspend(w);
}

void all_of_block_meet(Worker& w, bool fences) {
  w.epoch += fences;
  if (__builtin_expect(w.counting, 0)) count_block_meets(w);
  for (uint32_t i = 0; i < w.n_warps; ++i) set_ready(w, i, w.warps[i].exist);
}

void sleep_until_woken(Wait why) {
  Worker& w = *g_worker;
  Thread* self = w.self;
  self->wait = why;
  suspend(w);
  self->wait = Wait::None;
}

void wake(Worker& w, Thread& thread) { set_ready(w, thread.warp, 1u << thread.lane); }

uint32_t random_turn(Worker& w) { return w.launch->seed ? next_random(w) : 0; }

bool collective(Op op, uint32_t mask, const char* file, int line) {
  Worker& w = *g_worker;
  Thread* self = w.self;
  Warp& warp = w.warps[self->warp];
  const uint32_t bit = 1u << self->lane;
  if (!(mask & bit)) fail("%s:%d: lane %u is not in its own mask %#x", short_name(file), line, self->lane, mask);
  self->op = op;
  self->mask = mask;
  self->file = file;
  self->line = line;
  warp.pending |= bit;
  const uint32_t lanes = mask & warp.exist;
  if ((warp.pending & lanes) != lanes) {
    self->wait = Wait::Warp;
    suspend(w);
    self->wait = Wait::None;
    return false;
  }
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const Thread& t = *(self - self->lane + __builtin_ctz(rest));
    if (__builtin_expect(t.op != op || t.mask != mask, 0)) {
      fail("divergent warp operation: is at %s:%d with mask %#x, lane %u at %s:%d with mask %#x", short_name(file), line,
           mask, t.lane, short_name(t.file), t.line, t.mask);
    }
  }
  warp.pending &= ~lanes;
  warp.syncs += op == Op::SyncWarp;
  if (__builtin_expect(w.counting, 0) && lanes == warp.exist) count_warp_meets(w, self->warp);
  set_ready(w, self->warp, lanes & ~bit);
  return true;
}

}  // namespace emu

using namespace emu;

// Where Rust comes in (src/device/gpu/emu.rs).
extern "C" {

Worker* haggle_emu_worker_new() {
  Worker* w = static_cast<Worker*>(aligned_alloc(64, (sizeof(Worker) + 63) / 64 * 64));
  if (!w) return nullptr;
  memset(static_cast<void*>(w), 0, sizeof(Worker));
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* stacks = mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
  w->arena = shared_new();
  if (stacks == MAP_FAILED || !w->arena) return nullptr;
  w->stacks = static_cast<char*>(stacks);
  prepare_fibers(*w);
  return w;
}

void haggle_emu_worker_free(Worker* w) {
  for (Thread& t : w->threads) free(t.copies);
  munmap(w->stacks, MAX_THREADS * STACK_BYTES);
  free(w->arena);
  free(w->shadow);
  async_free(*w);
  count_free(*w);
  cluster_free(*w);
  free(w);
}

// Runs clusters of the launch until none is left or one has failed. Any number of workers may work on one launch.
void haggle_emu_work(Worker* w, Launch* launch) {
  const uint64_t n_clusters = static_cast<uint64_t>(launch->grid.x) * launch->grid.y * launch->grid.z / launch->entry->cluster;
  Worker* outer = g_worker;
  g_worker = w;
  w->launch = launch;
  w->counting = launch->counts != nullptr;
  w->block_dim = launch->block;
  w->grid_dim = launch->grid;
  while (!__atomic_load_n(&launch->report.set, __ATOMIC_RELAXED)) {
    const uint64_t turn = __atomic_fetch_add(&launch->next_turn, 1, __ATOMIC_RELAXED);
    if (turn >= launch->turns) break;
    run_cluster(*w, launch->first_cluster + one_of(turn, launch->turns, n_clusters - launch->first_cluster));
  }
  for (uint32_t i = 0; w->counting && i < MAX_CLUSTER; ++i) {
    if (Worker* block = i == 0 ? w : w->own_cluster ? w->own_cluster->blocks[i] : nullptr) count_launch_ends(*block, *launch);
  }
  g_worker = outer;
}

}  // extern "C"
