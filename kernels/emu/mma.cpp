// See mma.h. The last lane to arrive gathers the fragments of the warp, multiplies, and deals out the result.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "emu/check.h"
#include "emu/count.h"
#include "emu/emu.h"
#include "emu/tensor.h"

namespace emu {

namespace {

inline float low(uint32_t kind, uint32_t pair) {
  return kind == MMA_BF16 ? float_of(pair << 16) : f16_float(static_cast<uint16_t>(pair));
}

inline float high(uint32_t kind, uint32_t pair) {
  return kind == MMA_BF16 ? float_of(pair & 0xFFFF0000u) : f16_float(static_cast<uint16_t>(pair >> 16));
}

// The fragments of m16n8k16: lane = 4 group + quarter.
template <uint32_t kind>
void gather_16(float (&a)[16][16], float (&b)[16][8]) {
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const Thread& t = lane_of(lane);
    const uint32_t *fa = static_cast<const uint32_t*>(t.fragments[0]), *fb = static_cast<const uint32_t*>(t.fragments[1]);
    const uint32_t group = lane / 4, k = lane % 4 * 2;
    for (uint32_t i = 0; i < 4; ++i) {
      a[group + i % 2 * 8][k + i / 2 * 8] = low(kind, fa[i]);
      a[group + i % 2 * 8][k + i / 2 * 8 + 1] = high(kind, fa[i]);
    }
    for (uint32_t i = 0; i < 2; ++i) {
      b[k + i * 8][group] = low(kind, fb[i]);
      b[k + i * 8 + 1][group] = high(kind, fb[i]);
    }
  }
}

// The fragments of m16n8k8 in tf32: the lowest 13 bits are not read.
void gather_8(float (&a)[16][8], float (&b)[8][8]) {
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const Thread& t = lane_of(lane);
    const uint32_t *fa = static_cast<const uint32_t*>(t.fragments[0]), *fb = static_cast<const uint32_t*>(t.fragments[1]);
    const uint32_t group = lane / 4, k = lane % 4;
    for (uint32_t i = 0; i < 4; ++i) a[group + i % 2 * 8][k + i / 2 * 4] = float_of(fa[i] & 0xFFFFE000u);
    for (uint32_t i = 0; i < 2; ++i) b[k + i * 4][group] = float_of(fb[i] & 0xFFFFE000u);
  }
}

void gather_c(float (&c)[16][8]) {
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const float* fc = static_cast<const float*>(lane_of(lane).fragments[2]);
    const uint32_t row = lane / 4, column = lane % 4 * 2;
    for (uint32_t i = 0; i < 4; ++i) c[row + i / 2 * 8][column + i % 2] = fc[i];
  }
}

void deal_d(const float (&c)[16][8]) {
  for (uint32_t lane = 0; lane < 32; ++lane) {
    float* fd = static_cast<float*>(const_cast<void*>(lane_of(lane).fragments[3]));
    const uint32_t row = lane / 4, column = lane % 4 * 2;
    for (uint32_t i = 0; i < 4; ++i) fd[i] = c[row + i / 2 * 8][column + i % 2];
  }
}

template <int K>
void multiply(uint32_t kind, float (&sums)[16][8], void (*gather)(float (&a)[16][K], float (&b)[K][8])) {
  Rows<K> a;
  Lines<K> lines;
  alignas(32) float b[K][8];
  gather(a.value, b);
  take_powers(a, least_power(kind));
  take_lines(lines, b[0], 8, least_power(kind));
  tensor_step(g_worker->launch->tensor_cores, a, lines, sums[0], 8);
}

bool whole_warp() { return g_worker->warps[g_worker->self->warp].exist == ~0u; }

}  // namespace

void mma(uint32_t kind, float* d, const uint32_t* a, const uint32_t* b, const float* c, const char* file, int line) {
  Thread& self = *g_worker->self;
  self.fragments[0] = a;
  self.fragments[1] = b;
  self.fragments[2] = c;
  self.fragments[3] = d;
  if (!whole_warp()) fail("%s in a warp of fewer than 32 threads", file);
  if (!collective(Op::Mma, ~0u, file, line)) return;
  if (counted()) count_product(2 * 16 * 8 * (kind == MMA_TF32 ? 8 : 16), false);
  alignas(32) float sums[16][8];
  gather_c(sums);
  if (kind == MMA_TF32) {
    multiply<8>(kind, sums, gather_8);
  } else {
    multiply<16>(kind, sums, kind == MMA_BF16 ? gather_16<MMA_BF16> : gather_16<MMA_F16>);
  }
  deal_d(sums);
}

void ldmatrix(uint32_t n, bool transposed, uint32_t* r, const void* row, const char* file, int line) {
  Thread& self = *g_worker->self;
  self.fragments[0] = row;
  self.fragments[1] = r;
  if (!whole_warp()) fail("%s in a warp of fewer than 32 threads", file);
  if (self.lane < 8 * n && reinterpret_cast<uintptr_t>(row) % 16) fail("misaligned %s: row address %p", file, row);
  if (self.lane < 8 * n && checked()) check_access(row, 16, Access::Read);
  if (!collective(Op::LdMatrix, ~0u, file, line)) return;
  for (uint32_t matrix = 0; counted() && matrix < n; ++matrix) {
    const void* starts[8];
    for (uint32_t i = 0; i < 8; ++i) starts[i] = lane_of(8 * matrix + i).fragments[0];
    count_matrix(starts, matrix == 0);
  }
  for (uint32_t matrix = 0; matrix < n; ++matrix) {
    uint16_t rows[8][8];
    for (uint32_t i = 0; i < 8; ++i) memcpy(rows[i], lane_of(8 * matrix + i).fragments[0], 16);
    for (uint32_t lane = 0; lane < 32; ++lane) {
      uint32_t* to = static_cast<uint32_t*>(const_cast<void*>(lane_of(lane).fragments[1]));
      const uint32_t i = lane / 4, j = lane % 4 * 2;
      const uint32_t first = transposed ? rows[j][i] : rows[i][j], second = transposed ? rows[j + 1][i] : rows[i][j + 1];
      to[matrix] = first | second << 16;
    }
  }
}

}  // namespace emu
