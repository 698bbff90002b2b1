// See count.h.

#include "emu/count.h"

#include "emu/cluster.h"

#include <stdlib.h>
#include <string.h>

namespace emu {

namespace {

constexpr uintptr_t SECTOR = 32, LINE = 128;
constexpr uint32_t BANKS = 32, BANK_BYTES = 4, PLACES = 1024;

// One instruction of one warp: where each lane that took part pointed.
struct Request {
  uintptr_t at[WARP];
  uint32_t in_shared, in_global;  // lanes: those of one place may be in either memory, and each is asked by its own
  uint32_t bytes;
  Access access;
};

// A place of the code where a warp has accessed memory since its lanes last met.
struct Site {
  const void* place;
  uint32_t seen[WARP];  // accesses of each lane
  Request* requests;
  uint32_t n_requests, max_requests;
};

struct WarpSites {
  Site sites[PLACES];  // by a hash of the place
  uint16_t used[PLACES];
  uint32_t n_used;
};

template <class T>
T* grown(T* old, uint32_t n) {
  T* fresh = static_cast<T*>(realloc(static_cast<void*>(old), n * sizeof(T)));
  if (!fresh) fail("out of memory");
  return fresh;
}

}  // namespace

struct Counter {
  Counts counts;
  WarpSites* warps[MAX_WARPS];
};

namespace {

void keep_most(uint64_t* most, uint64_t x) {
  uint64_t old = __atomic_load_n(most, __ATOMIC_RELAXED);
  while (old < x && !__atomic_compare_exchange_n(most, &old, x, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

Counter& counter_of(Worker& w) {
  if (!w.counter) w.counter = static_cast<Counter*>(calloc(1, sizeof(Counter)));
  if (!w.counter) fail("out of memory");
  return *w.counter;
}

Site& site_of(Counter& counter, uint32_t warp, const void* place) {
  WarpSites*& all = counter.warps[warp];
  if (!all) all = static_cast<WarpSites*>(calloc(1, sizeof(WarpSites)));
  if (!all) fail("out of memory");
  uint32_t at = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(place) * 0x9E3779B97F4A7C15ull >> 54);
  while (all->sites[at].place && all->sites[at].place != place) at = (at + 1) % PLACES;
  Site& site = all->sites[at];
  if (!site.place) {
    if (all->n_used == PLACES - 1) fail("more than %u places that access memory", PLACES - 1);
    site.place = place;
    all->used[all->n_used++] = static_cast<uint16_t>(at);
  }
  return site;
}

bool is_shared(Worker& w, uintptr_t at) { return block_at(w, reinterpret_cast<const void*>(at)); }

// Where the argument begins that an address is in: a line of memory on a GPU, which here it need not be.
uintptr_t start_of_range(const Launch& launch, uintptr_t at) {
  for (uint32_t i = 0; i < launch.n_ranges; ++i) {
    if (at >= launch.ranges[i].start && at < launch.ranges[i].end) return launch.ranges[i].start;
  }
  return 0;
}

// The sector's mark among those of all arguments: bit 0 read, bit 1 written; null: no argument's.
uint8_t* mark_of(const Launch& launch, uintptr_t at) {
  uint64_t before = 0;
  for (uint32_t i = 0; i < launch.n_ranges; ++i) {
    const Range& range = launch.ranges[i];
    if (at >= range.start && at < range.end) return launch.marks + before + (at / SECTOR - range.start / SECTOR);
    before += range.end / SECTOR - range.start / SECTOR + 1;
  }
  return nullptr;
}

void touch(Worker& w, uintptr_t sector, Access access) {
  Counts& counts = w.counter->counts;
  ++(access == Access::Read ? counts.read_sectors : counts.write_sectors);
  uint8_t* mark = mark_of(*w.launch, sector * SECTOR);
  if (!mark) mark = mark_of(*w.launch, sector * SECTOR + SECTOR - 1);  // an argument that begins inside a sector
  if (mark) __atomic_fetch_or(mark, access == Access::Read ? 1 : 2, __ATOMIC_RELAXED);
}

void global_request(Worker& w, const Request& request) {
  Counts& counts = w.counter->counts;
  ++(request.access == Access::Read ? counts.read_requests : counts.write_requests);
  uintptr_t sectors[2 * WARP];
  uint32_t n = 0;
  for (uint32_t rest = request.in_global; rest; rest &= rest - 1) {
    const uintptr_t at = request.at[__builtin_ctz(rest)];
    for (uintptr_t sector = at / SECTOR; sector <= (at + request.bytes - 1) / SECTOR; ++sector) {
      uint32_t i = n;
      while (i > 0 && sectors[i - 1] != sector) --i;
      if (i == 0) {
        sectors[n++] = sector;
        touch(w, sector, request.access);
      }
    }
  }
}

// Cycles that `n` accesses of `bytes` take together: the most different words any bank is asked for.
uint32_t wavefronts(const uintptr_t* at, uint32_t n, uint32_t bytes) {
  uintptr_t words[BANKS][WARP];
  uint32_t asked[BANKS] = {}, most = 0;
  for (uint32_t i = 0; i < n; ++i) {
    for (uintptr_t word = at[i] / BANK_BYTES; word <= (at[i] + bytes - 1) / BANK_BYTES; ++word) {
      const uint32_t bank = word % BANKS;
      uint32_t& count = asked[bank];
      uint32_t k = 0;
      while (k < count && words[bank][k] != word) ++k;
      if (k == count) words[bank][count++] = word;
      most = count > most ? count : most;
    }
  }
  return most;
}

void add_wavefronts(Counts& counts, uint32_t took) {
  counts.shared_wavefronts += took;
  ++counts.shared_ideal;
  if (took > counts.worst_conflict) counts.worst_conflict = took;
}

// Lanes share a cycle as far as they need 128 bytes together: all, half of them for 8 bytes, a quarter for 16.
void shared_request(Worker& w, const Request& request) {
  Counts& counts = w.counter->counts;
  ++counts.shared_requests;
  const uint32_t together = request.bytes <= 4 ? WARP : request.bytes <= 8 ? WARP / 2 : WARP / 4;
  for (uint32_t first = 0; first < WARP; first += together) {
    uintptr_t at[WARP];
    uint32_t n = 0;
    for (uint32_t lane = first; lane < first + together; ++lane) {
      if (request.in_shared >> lane & 1) at[n++] = request.at[lane];
    }
    if (n) add_wavefronts(counts, wavefronts(at, n, request.bytes));
  }
}

}  // namespace

void count_access(const void* pointer, size_t bytes, Access access, const void* place) {
  Worker& w = *g_worker;
  const uintptr_t at = reinterpret_cast<uintptr_t>(pointer);
  // A larger object moves as vectors of 16 bytes, one after another.
  if (bytes > 16) {
    for (size_t i = 0; i < bytes; i += 16) {
      count_access(static_cast<const char*>(pointer) + i, bytes - i < 16 ? bytes - i : 16, access, static_cast<const char*>(place) + i / 16);
    }
    return;
  }
  const bool shared = is_shared(w, at);
  if (!bytes || (!shared && !mark_of(*w.launch, at))) return;  // local memory, or the emulator's own
  const Thread& self = *w.self;
  Site& site = site_of(counter_of(w), self.warp, place);
  const uint32_t turn = site.seen[self.lane]++;
  if (turn == site.n_requests) {
    if (turn == site.max_requests) {
      site.max_requests = turn ? 2 * turn : 8;
      site.requests = grown(site.requests, site.max_requests);
    }
    Request& fresh = site.requests[site.n_requests++];
    fresh.in_shared = fresh.in_global = 0;
    fresh.bytes = static_cast<uint32_t>(bytes);
    fresh.access = access;
  }
  Request& request = site.requests[turn];
  (shared ? request.in_shared : request.in_global) |= 1u << self.lane;
  request.at[self.lane] = at;
}

void count_bulk(const void* pointer, size_t bytes) {
  Worker& w = *g_worker;
  const uintptr_t at = reinterpret_cast<uintptr_t>(pointer), last = (at + bytes - 1) / SECTOR;
  const uintptr_t offset = at - start_of_range(*w.launch, at);
  counter_of(w).counts.read_requests += (offset + bytes - 1) / LINE - offset / LINE + 1;
  for (uintptr_t sector = at / SECTOR; sector <= last; ++sector) touch(w, sector, Access::Read);
}

void count_copied(uint64_t bytes) {
  counter_of(*g_worker).counts.copied_bytes += bytes;
  count_prefetched(bytes);
}

void count_prefetched(uint64_t bytes) {
  if (!g_worker->self->waited) counter_of(*g_worker).counts.early_bytes += bytes;
}

void count_matrix(const void* const (&rows)[8], bool first) {
  uintptr_t at[8];
  for (uint32_t i = 0; i < 8; ++i) at[i] = reinterpret_cast<uintptr_t>(rows[i]);
  Counts& counts = counter_of(*g_worker).counts;
  counts.shared_requests += first;
  add_wavefronts(counts, wavefronts(at, 8, 16));
}

void count_product(uint64_t flops, bool by_warpgroup) {
  Counts& counts = counter_of(*g_worker).counts;
  (by_warpgroup ? counts.wgmma_flops : counts.mma_flops) += flops;
}

void count_warp_meets(Worker& w, uint32_t warp) {
  WarpSites* all = counter_of(w).warps[warp];
  if (!all) return;
  for (uint32_t i = 0; i < all->n_used; ++i) {
    Site& site = all->sites[all->used[i]];
    for (uint32_t r = 0; r < site.n_requests; ++r) {
      const Request& request = site.requests[r];
      if (request.in_shared) shared_request(w, request);
      if (request.in_global) global_request(w, request);
    }
    site.n_requests = 0;
    site.place = nullptr;
    memset(site.seen, 0, sizeof site.seen);
  }
  all->n_used = 0;
}

void count_block_meets(Worker& w) {
  ++counter_of(w).counts.barriers;
  for (uint32_t warp = 0; warp < w.n_warps; ++warp) count_warp_meets(w, warp);
}

void count_block_ends(Worker& w) {
  for (uint32_t warp = 0; warp < w.n_warps; ++warp) count_warp_meets(w, warp);
  Counts& counts = counter_of(w).counts;
  uint64_t bytes = 0, flight = 0;
  for (uint32_t i = 0; i < w.n_arrays; ++i) bytes += w.arrays[i].bytes;
  for (uint32_t i = 0; i < w.n_threads; ++i) flight += w.threads[i].most_flying;
  if (bytes > counts.shared_bytes) counts.shared_bytes = bytes;
  if (flight > counts.flight_bytes) counts.flight_bytes = flight;
}

void count_launch_ends(Worker& w, Launch& launch) {
  if (!w.counter) return;
  Counts& counts = w.counter->counts;
  Counts& all = *launch.counts;
  const uint64_t* mine = reinterpret_cast<const uint64_t*>(&counts);
  uint64_t* sum = reinterpret_cast<uint64_t*>(&all);
  for (size_t i = 0; i < ADDED_COUNTS; ++i) __atomic_fetch_add(sum + i, mine[i], __ATOMIC_RELAXED);
  keep_most(&all.worst_conflict, counts.worst_conflict);
  keep_most(&all.shared_bytes, counts.shared_bytes);
  keep_most(&all.flight_bytes, counts.flight_bytes);
  counts = Counts{};
}

void count_free(Worker& w) {
  if (!w.counter) return;
  for (WarpSites* all : w.counter->warps) {
    for (uint32_t i = 0; all && i < PLACES; ++i) free(all->sites[i].requests);
    free(all);
  }
  free(w.counter);
}

}  // namespace emu
