// See sm90.h: products of a warpgroup. Each warp has 16 of the 64 rows and does its own share when it waits; lane, row
// and column of an accumulator are those of mma.sync, eight columns after eight.

#include <stdlib.h>
#include <string.h>

#include "emu/async.h"
#include "emu/check.h"
#include "emu/count.h"
#include "emu/emu.h"
#include "emu/tensor.h"

namespace emu {

namespace {

// A matrix descriptor, PTX ISA 9.0, "Matrix descriptor format".
struct Matrix {
  uint32_t start, leading, stride, base;  // bytes; base: lines of 128 from the pattern's start to a multiple of 1024
  bool turned;
};

Matrix decode(uint64_t bits, bool turned, const char* which) {
  const uint64_t known = 0x3FFFull | 0x3FFFull << 16 | 0x3FFFull << 32 | 7ull << 49 | 3ull << 62;
  if (bits & ~known) fail("wgmma: the descriptor of %s, %#llx, sets bits that mean nothing", which, static_cast<unsigned long long>(bits));
  if (bits >> 62 != 1) fail("wgmma: the descriptor of %s asks for swizzle mode %u; emulated is 1, 128 bytes", which, static_cast<uint32_t>(bits >> 62));
  const auto field = [bits](uint32_t at) { return static_cast<uint32_t>(bits >> at & 0x3FFF) << 4; };
  return {field(0), field(16), field(32), static_cast<uint32_t>(bits >> 49 & 7), turned};
}

// Eight neighbouring elements, 16 bytes: along K of line i (as stored: K-major), or along i of step k (turned). The
// canonical layouts of the PTX ISA, "Strides", for 128-byte swizzling:
//   K-major   ((8, m), (8, 2)) : ((64, stride), (1, 8))                    elements of line i; leading is not used
//   MN-major  ((8, 8, m), (8, 2)) : ((1, 8, leading), (64, stride))        elements of step k
const char* unit_at(const Worker& w, const Matrix& m, uint32_t i, uint32_t k) {
  const uint32_t offset = m.turned ? i / 64 * m.leading + i % 64 / 8 * 16 + k / 8 * m.stride + k % 8 * 128
                                   : i / 8 * m.stride + i % 8 * 128 + k / 8 * 16;
  const uint32_t plain = m.start + offset;
  const uint32_t address = plain ^ (((plain >> 7) - m.base) & 7) << 4;
  const char* at = w.arena + (static_cast<int64_t>(address) - SHARED_WINDOW);
  if (address < SHARED_WINDOW || !shared_at(w, at, 16)) fail("wgmma reads outside shared memory, at address %#x", address);
  return at;
}

// Calls f(i, k, at) for each unit of lines first .. first + count.
template <class F>
inline void each_unit(const Worker& w, const Matrix& m, uint32_t first, uint32_t count, F f) {
  if (m.turned) {
    for (uint32_t k = 0; k < 16; ++k) {
      for (uint32_t i = 0; i < count; i += 8) f(i, k, unit_at(w, m, first + i, k));
    }
  } else {
    for (uint32_t i = 0; i < count; ++i) {
      for (uint32_t k = 0; k < 16; k += 8) f(i, k, unit_at(w, m, first + i, k));
    }
  }
}

// Of what the operands name in shared memory.
uint64_t operands_number(const Worker& w, const Product& p, uint32_t first_row) {
  uint64_t number = 0xcbf29ce484222325ull;
  const auto add = [&](uint32_t, uint32_t, const char* at) {
    uint64_t x[2];
    memcpy(x, at, sizeof x);
    number = (number ^ x[0]) * 0x9E3779B97F4A7C15ull;
    number = (number ^ (number >> 29) ^ x[1]) * 0xD1B54A32D192ED03ull;
  };
  if (!p.a_in_registers) each_unit(w, decode(p.a, p.a_turned, "a"), first_row, 16, add);
  each_unit(w, decode(p.b, p.b_turned, "b"), 0, p.columns, add);
  return number;
}

void read_units(const Worker& w, const Matrix& m, uint32_t first, uint32_t count, float* to, uint32_t i_step, uint32_t k_step) {
  each_unit(w, m, first, count, [&](uint32_t i, uint32_t k, const char* at) {
    if (checked()) check_async_read(at, 16);
    uint16_t x[8];
    memcpy(x, at, sizeof x);
    const uint32_t step = m.turned ? i_step : k_step;
    for (uint32_t e = 0; e < 8; ++e) to[i * i_step + k * k_step + e * step] = float_of(static_cast<uint32_t>(x[e]) << 16);
  });
}

void multiply(const Rows<16>& a, const float (&b)[16][MAX_COLUMNS], Sums& sums) {
  for (uint32_t column = 0; column < sums.columns; column += 8) {
    Lines<16> lines;
    take_lines(lines, &b[0][column], MAX_COLUMNS, LEAST_POWER);
    tensor_step(HOPPER, a, lines, &sums.values[0][column], MAX_COLUMNS);
  }
}

// Where lane l has element e of eight columns j.
inline uint32_t row_of(uint32_t lane, uint32_t e) { return lane / 4 + e / 2 * 8; }
inline uint32_t column_of(uint32_t lane, uint32_t j, uint32_t e) { return j * 8 + lane % 4 * 2 + e % 2; }

// The accumulators of these registers, taken over from them when no product is under way into them yet.
uint32_t take_sums(WarpProducts& warp, uint32_t columns) {
  uint32_t free_one = MAX_SUMS;
  for (uint32_t s = 0; s < MAX_SUMS; ++s) {
    if (!warp.sums[s] || !warp.sums[s]->n_products) {
      free_one = s;
    } else if (warp.sums[s]->at[0] == lane_of(0).fragments[3]) {
      if (warp.sums[s]->columns != columns) fail("wgmma: accumulators of %u columns, products into %u of them are under way", columns, warp.sums[s]->columns);
      return s;
    }
  }
  if (free_one == MAX_SUMS) fail("wgmma into more than %u accumulators at once", MAX_SUMS);
  if (!warp.sums[free_one]) warp.sums[free_one] = static_cast<Sums*>(aligned_alloc(64, (sizeof(Sums) + 63) / 64 * 64));
  if (!warp.sums[free_one]) fail("out of memory");
  Sums& sums = *warp.sums[free_one];
  sums.columns = columns;
  sums.n_products = 0;
  for (uint32_t lane = 0; lane < WARP; ++lane) {
    float* d = sums.at[lane] = static_cast<float*>(const_cast<void*>(lane_of(lane).fragments[3]));
    for (uint32_t i = 0; i < columns / 2; ++i) sums.values[row_of(lane, i % 4)][column_of(lane, i / 4, i % 4)] = d[i];
    memset(d, POISON, columns / 2 * sizeof(float));
  }
  return free_one;
}

void give_sums(const Sums& sums) {
  for (uint32_t lane = 0; lane < WARP; ++lane) {
    for (uint32_t i = 0; i < sums.columns / 2; ++i) sums.at[lane][i] = sums.values[row_of(lane, i % 4)][column_of(lane, i / 4, i % 4)];
  }
}

void run(Worker& w, Async& async, WarpProducts& warp, const Product& p, uint32_t first_row) {
  Sums& sums = *warp.sums[p.sums];
  if (operands_number(w, p, first_row) != p.operands) {
    fail("wgmma: what it reads in shared memory has changed between its start and its wait: written too early, or started "
         "before it was there");
  }
  if (p.a_in_registers) {
    for (uint32_t lane = 0; lane < WARP; ++lane) {
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = lane / 4 + i % 2 * 8, k = lane % 4 * 2 + i / 2 * 8;
        async.a.value[row][k] = float_of(p.fragments[lane][i] << 16);
        async.a.value[row][k + 1] = float_of(p.fragments[lane][i] & 0xFFFF0000u);
      }
    }
  } else {
    read_units(w, decode(p.a, p.a_turned, "a"), first_row, 16, async.a.value[0], 16, 1);
  }
  read_units(w, decode(p.b, p.b_turned, "b"), 0, p.columns, &async.b[0][0], 1, MAX_COLUMNS);
  if (!p.add) memset(sums.values, 0, sizeof sums.values);
  take_powers(async.a, LEAST_POWER);
  multiply(async.a, async.b, sums);
  if (--sums.n_products == 0) give_sums(sums);
}

}  // namespace

void fence_proxy_async() { ++g_worker->self->proxy_fences; }

void wgmma_fence() { g_worker->self->wgmma_fenced = true; }

void wgmma(uint32_t columns, float* d, const uint32_t* a_fragments, uint64_t a, uint64_t b, bool a_turned, bool b_turned, bool add) {
  Worker& w = *g_worker;
  Thread& self = *w.self;
  if (w.launch->tensor_cores != HOPPER) fail("wgmma on tensor cores that have none: only Hopper's do");
  if (columns % 8 || !columns || columns > MAX_COLUMNS) fail("wgmma: no shape of %u columns", columns);
  if ((self.warp | 3u) >= w.n_warps || w.warps[self.warp].exist != ~0u) fail("wgmma in a warpgroup of fewer than 128 threads");
  if (!self.wgmma_fenced) fail("wgmma without wgmma.fence: registers may have been written since the last wait");
  self.fragments[0] = a_fragments;
  self.fragments[3] = d;
  self.value = a_fragments ? 0 : a;
  self.result = b;
  if (!collective(Op::Wgmma, ~0u, "wgmma", 0)) return;
  if (counted()) count_product(2 * 16 * columns * 16, true);
  WarpProducts& warp = async_of(w).warps[self.warp];
  if (warp.n_products == warp.max_products) {
    warp.max_products = warp.max_products ? 2 * warp.max_products : 16;
    warp.products = static_cast<Product*>(realloc(warp.products, warp.max_products * sizeof(Product)));
    if (!warp.products) fail("out of memory");
  }
  Product& p = warp.products[warp.n_products++];
  p = {self.value, b, 0, columns, warp.groups, take_sums(warp, columns), a_fragments != nullptr, a_turned, b_turned, add, {}};
  for (uint32_t lane = 0; lane < WARP; ++lane) {
    const Thread& t = lane_of(lane);
    if (t.value != self.value || t.result != b || !t.fragments[0] != !a_fragments) fail("wgmma: lane %u has another descriptor than lane %u", lane, static_cast<uint32_t>(self.lane));
    if (a_fragments) memcpy(p.fragments[lane], t.fragments[0], sizeof p.fragments[lane]);
  }
  p.operands = operands_number(w, p, self.warp % 4 * 16);
  ++warp.sums[p.sums]->n_products;
  ++warp.issued;
}

// Counted once a warp, by its first lane: the others' calls are the same by `.aligned`.
void wgmma_commit_group() {
  Worker& w = *g_worker;
  if (w.self->lane == 0) ++async_of(w).warps[w.self->warp].groups;
  collective(Op::SyncWarp, ~0u, "wgmma.commit_group", 0);
}

void wgmma_wait_group(uint32_t groups_left) {
  Worker& w = *g_worker;
  w.self->wgmma_fenced = false;
  if (!collective(Op::WgmmaWait, ~0u, "wgmma.wait_group", 0)) return;
  Async& async = async_of(w);
  WarpProducts& warp = async.warps[w.self->warp];
  uint32_t done = 0;
  for (; done < warp.n_products && warp.products[done].group + groups_left < warp.groups; ++done) {
    run(w, async, warp, warp.products[done], w.self->warp % 4 * 16);
  }
  warp.n_products -= done;
  memmove(warp.products, warp.products + done, warp.n_products * sizeof(Product));
}

}  // namespace emu
