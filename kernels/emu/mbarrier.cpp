// See sm90.h: mbarriers. What PTX keeps in their 8 bytes stands in a list; the bytes hold a mark, so that stray writes
// are seen.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emu/async.h"
#include "emu/emu.h"

namespace emu {

namespace {

constexpr uint64_t MARK = 0xBA44'1E44'BA44'1E44ull;
constexpr uint32_t MAX_COUNT = (1u << 20) - 1;
constexpr int64_t MAX_BYTES = (1 << 20) - 1;

const char* name_of(const Worker& w, const void* at, char (&text)[64]) {
  const SharedArray* array = shared_at(w, at, 8);
  const size_t offset = array ? static_cast<size_t>(static_cast<const char*>(at) - array->start) : 0;
  snprintf(text, sizeof text, "the mbarrier at byte %zu of shared array `%.20s`", offset, array ? array->name : "?");
  return text;
}

Mbarrier* find(Async& async, const void* at) {
  for (uint32_t i = 0; i < async.n_mbarriers; ++i) {
    if (async.mbarriers[i].at == at) return &async.mbarriers[i];
  }
  return nullptr;
}

Mbarrier& use(Worker& w, uint64_t* bar, const char* what) {
  char name[64];
  Mbarrier* m = find(async_of(w), bar);
  if (!m) fail("%s: %s is not initialised", what, name_of(w, bar, name));
  if (*bar != MARK) fail("%s: %s was written to", what, name_of(w, bar, name));
  if (&w != g_worker) {
    if (w.n_left == 0) fail("%s: %s of block %u of its cluster, which has ended", what, name_of(w, bar, name), w.rank);
    if (m->init_passes == w.cluster->passes) {
      fail("%s: %s of block %u of its cluster was initialised with no barrier.cluster since", what, name_of(w, bar, name), w.rank);
    }
    return *m;
  }
  const uint32_t me = static_cast<uint32_t>(w.self - w.threads);
  if (m->init_thread != me && m->init_epoch == w.epoch && (!w.cluster || m->init_passes == w.cluster->passes)) {
    fail("%s: %s was initialised by thread %u with no barrier since", what, name_of(w, bar, name), m->init_thread);
  }
  return *m;
}

// The phase ends when nothing lacks: who waited for it goes on.
void complete_phase(Worker& w, Mbarrier& m) {
  if (m.pending || m.bytes) return;
  ++m.phase;
  m.pending = m.count;
  ++w.epoch;  // for the check: what was before is ordered before what comes after
  for (uint32_t i = 0; i < w.n_threads; ++i) {
    Thread& t = w.threads[i];
    if (t.wait != Wait::Mbarrier || t.mbarrier != m.at || (m.phase & 1) == t.parity) continue;
    t.mbarrier = nullptr;
    wake(w, t);
  }
}

void arrive(Worker& w, uint64_t* bar, uint32_t bytes, const char* what) {
  Mbarrier& m = use(w, bar, what);
  char name[64];
  if (!m.pending) fail("%s: %s takes %u arrivals a phase, this is one more", what, name_of(w, bar, name), m.count);
  if (m.bytes + static_cast<int64_t>(bytes) > MAX_BYTES) fail("%s: %s expects more than %lld bytes", what, name_of(w, bar, name), static_cast<long long>(MAX_BYTES));
  m.bytes += static_cast<int32_t>(bytes);
  --m.pending;
  complete_phase(w, m);
}

}  // namespace

Async& async_of(Worker& w) {
  if (!w.async) {
    w.async = static_cast<Async*>(aligned_alloc(64, (sizeof(Async) + 63) / 64 * 64));
    if (!w.async) fail("out of memory");
    memset(static_cast<void*>(w.async), 0, sizeof(Async));
  }
  return *w.async;
}

void async_start(Worker& w) {
  w.n_bulk = 0;
  if (!w.async) return;
  w.async->n_mbarriers = 0;
  for (WarpProducts& warp : w.async->warps) {
    warp.n_products = warp.groups = warp.issued = 0;
    for (Sums* sums : warp.sums) {
      if (sums) sums->n_products = 0;
    }
  }
}

void async_free(Worker& w) {
  if (!w.async) return;
  free(w.async->copies);
  for (WarpProducts& warp : w.async->warps) {
    free(warp.products);
    for (Sums* sums : warp.sums) free(sums);
  }
  free(w.async);
}

const char* async_left(Worker& w, uint32_t* thread) {
  if (!w.async) return nullptr;
  if (w.n_bulk) return "the block has ended, and a bulk copy into its shared memory is still under way";
  for (uint32_t i = 0; i < w.n_warps; ++i) {
    const WarpProducts& warp = w.async->warps[i];
    *thread = i * WARP;
    if (warp.n_products) return "the block has ended, and a wgmma of this warp was not waited for";
    if (warp.issued != w.async->warps[i / 4 * 4].issued) return "the warps of this warpgroup have not run the same number of wgmma";
  }
  return nullptr;
}

void mbarrier_init(uint64_t* bar, uint32_t count) {
  Worker& w = *g_worker;
  Async& async = async_of(w);
  const SharedArray* array = shared_at(w, bar, sizeof *bar);
  if (!array || reinterpret_cast<uintptr_t>(bar) % 8) fail("mbarrier.init: %p is no 8-byte word of shared memory", static_cast<void*>(bar));
  if (!count || count > MAX_COUNT) fail("mbarrier.init: a count of %u, 1 to %u go", count, MAX_COUNT);
  Mbarrier* m = find(async, bar);
  if (!m) {
    if (async.n_mbarriers == MAX_MBARRIERS) fail("more than %u mbarriers", MAX_MBARRIERS);
    m = &async.mbarriers[async.n_mbarriers++];
  }
  *bar = MARK;
  *m = {bar, count, count, 0, 0, static_cast<uint32_t>(w.self - w.threads), w.epoch, w.cluster ? w.cluster->passes : 0, false};
}

void fence_mbarrier_init() {
  Worker& w = *g_worker;
  Async& async = async_of(w);
  for (uint32_t i = 0; i < async.n_mbarriers; ++i) {
    if (async.mbarriers[i].init_thread == static_cast<uint32_t>(w.self - w.threads)) async.mbarriers[i].fenced = true;
  }
}

void mbarrier_arrive(uint64_t* bar) { arrive(*g_worker, bar, 0, "mbarrier.arrive"); }

void mbarrier_arrive_cluster(uint64_t* bar, uint32_t rank) {
  uint64_t* there = static_cast<uint64_t*>(mapa(bar, rank));
  arrive(*block_at(*g_worker, there), there, 0, "mbarrier.arrive.shared::cluster");
}

void mbarrier_arrive_expect_tx(uint64_t* bar, uint32_t bytes) {
  arrive(*g_worker, bar, bytes, "mbarrier.arrive.expect_tx");
}

// As on hardware this may return false before the phase is complete (with a seed): who asks must ask again.
bool mbarrier_try_wait_parity(uint64_t* bar, uint32_t parity) {
  Worker& w = *g_worker;
  const Mbarrier& m = use(w, bar, "mbarrier.try_wait");
  if ((m.phase & 1) != (parity & 1)) return true;
  if (random_turn(w) % 4 == 1) return false;
  w.self->mbarrier = bar;
  w.self->parity = parity & 1;
  sleep_until_woken(Wait::Mbarrier);
  return true;
}

void mbarrier_check(Worker& w, uint64_t* bar, const char* what, bool engine) {
  char name[64];
  const Mbarrier& m = use(w, bar, what);
  if (engine && !m.fenced) fail("%s: %s has no fence.mbarrier_init after its initialisation", what, name_of(w, bar, name));
}

void mbarrier_complete_bytes(Worker& w, uint64_t* bar, uint32_t bytes) {
  Mbarrier* m = find(async_of(w), bar);
  m->bytes -= static_cast<int32_t>(bytes);
  complete_phase(w, *m);
}

void mbarrier_lacks(Worker& w, const Thread& thread, char* text, size_t bytes) {
  char name[64];
  const Mbarrier* m = find(async_of(w), thread.mbarrier);
  snprintf(text, bytes, "%s, whose phase %u lacks %u of %u arrivals and %d bytes", name_of(w, thread.mbarrier, name), m->phase,
           m->pending, m->count, m->bytes);
}

}  // namespace emu
