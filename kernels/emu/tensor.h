// What a tensor core computes in one step: c [16, 8] += a [16, K] b [K, 8].
//
// The model of arXiv:2511.10909 (MMA-Sim), which its authors held against the hardware bit for bit: each of the K products
// is exact, with the sum of its operands' exponents as its own (it is not normalised; a zero has the exponent -126, a
// subnormal the least of its type). The products and c are aligned to the largest exponent, each cut off toward zero
// behind `fraction` bits, added exactly, and the sum is cut off toward zero to float, subnormals included; from 2^128 on it
// is infinite. A sum of zero is +0. A NaN among them, infinities of both signs, or infinity times zero: NaN, 0x7FFFFFFF.
//   Hopper   bf16, f16: K 16; tf32: K 8; 25 fraction bits; wgmma and mma.sync alike.
//   Ampere   m16n8k16 is two steps of K 8, tf32's m16n8k8 two of K 4; 24 fraction bits.
// Held here to the bit, to tiles made by the authors' own program: bf16, both cards. f16 and tf32 follow the same text.
// Not known here, and not emulated: fp8 (other fraction bits), Blackwell's own instructions.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "emu/emu.h"
#include "emu/row.h"

namespace emu {

constexpr float LEAST_POWER = 0x1p-126f;

// 2^exponent of x as the tensor core counts it; infinity for what is not finite. `least`: the least of x's type.
inline float power_of(float x, float least) {
  const float power = float_of(bits_of(x) & 0x7F800000u);
  return x == 0.0f ? LEAST_POWER : power < least ? least : power;
}
inline Row power_of(Row x, float least) {
  const Row power = reinterpret_cast<Row>(reinterpret_cast<BitRow>(x) & 0x7F800000u);
  return x == 0.0f ? Row{} + LEAST_POWER : row_max(power, Row{} + least);
}

inline float least_power(uint32_t kind) { return kind == MMA_F16 ? 0x1p-14f : LEAST_POWER; }

// K lines of eight columns of b, with their powers.
template <int K>
struct Lines {
  Row value[K], power[K];
};

template <int K>
inline void take_lines(Lines<K>& lines, const float* b, size_t step, float least) {
  for (int k = 0; k < K; ++k) {
    lines.value[k] = row_load(b + k * step);
    lines.power[k] = power_of(lines.value[k], least);
  }
}

template <int K>
inline void take_powers(Rows<K>& a, float least) {
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < K; k += 8) {
      const Row power = power_of(row_load(&a.value[i][k]), least);
      memcpy(&a.power[i][k], &power, sizeof power);
    }
  }
}

// One element in integers: what the vectors below do for exponents and numbers of every kind.
float dot_add(const float* a, const float* a_power, const float* b, const float* b_power, int k, float c, int fraction);

// The sum of eight columns: `terms` and c's in units of 2^(exponent of most - fraction).
inline Row row_sum(IntRow terms, IntRow term_c, Row most, int fraction) {
  const IntRow sum = reinterpret_cast<IntRow>(reinterpret_cast<BitRow>(terms) + reinterpret_cast<BitRow>(term_c));
  const IntRow carried = (terms ^ sum) & (term_c ^ sum);  // the 33rd bit: the products alone stay below 2^31
  const IntRow negative = (sum ^ carried) >> 31;
  BitRow size = reinterpret_cast<BitRow>((sum ^ negative)) - reinterpret_cast<BitRow>(negative);
  BitRow beyond = size >> 24;  // bits that a float has no room for: cleared
  beyond |= beyond >> 1;
  beyond |= beyond >> 2;
  beyond |= beyond >> 4;
  size &= ~beyond;
  const Row high = __builtin_convertvector(reinterpret_cast<IntRow>(size >> 16), Row);
  const Row low = __builtin_convertvector(reinterpret_cast<IntRow>(size & 0xFFFFu), Row);
  const Row unit = reinterpret_cast<Row>(reinterpret_cast<IntRow>(most) - (fraction << 23));
  const Row value = (high * 65536.0f + low) * unit;
  return reinterpret_cast<Row>(reinterpret_cast<BitRow>(value) | (reinterpret_cast<BitRow>(negative) & 0x80000000u));
}

// Columns whose largest exponent lies between these are added in floats and 32-bit integers: nothing overflows, and what
// underflows would have been cut off.
constexpr float LEAST_MOST = 0x1p-90f, GREATEST_MOST = 0x1p120f;

// c [R, 8] += a [R, K] b [K, 8], rows `row` and after of a.
template <int K, int R, int STRIDE>
inline void add_rows(const Rows<STRIDE>& a, int row, int first, const Lines<STRIDE>& b, float* c, size_t c_step, int fraction) {
  Row start[R], most[R], scale[R];
  IntRow terms[R];
  for (int i = 0; i < R; ++i) {
    start[i] = row_load(c + i * c_step);
    const Row power = reinterpret_cast<Row>(reinterpret_cast<BitRow>(start[i]) & 0x7F800000u);
    most[i] = row_max(power, Row{} + LEAST_POWER);
  }
  for (int k = first; k < first + K; ++k) {
    for (int i = 0; i < R; ++i) most[i] = row_max(a.power[row + i][k] * b.power[k], most[i]);
  }
  for (int i = 0; i < R; ++i) {
    scale[i] = reinterpret_cast<Row>(((254 + fraction) << 23) - reinterpret_cast<IntRow>(most[i]));
    terms[i] = IntRow{};
  }
  for (int k = first; k < first + K; ++k) {
    for (int i = 0; i < R; ++i) terms[i] += row_int(a.value[row + i][k] * b.value[k] * scale[i]);
  }
  for (int i = 0; i < R; ++i) {
    float* to = c + i * c_step;
    if (!row_any((most[i] < LEAST_MOST) | (most[i] > GREATEST_MOST))) {
      const Row sum = row_sum(terms[i], row_int(start[i] * scale[i]), most[i], fraction);
      memcpy(to, &sum, sizeof sum);
      continue;
    }
    for (int j = 0; j < 8; ++j) {
      float column[K], power[K];
      for (int k = 0; k < K; ++k) column[k] = b.value[first + k][j], power[k] = b.power[first + k][j];
      to[j] = dot_add(&a.value[row + i][first], &a.power[row + i][first], column, power, K, to[j], fraction);
    }
  }
}

// c [16, 8] += a [16, K] b [K, 8] on a card's tensor cores.
template <int K>
inline void tensor_step(uint32_t card, const Rows<K>& a, const Lines<K>& b, float* c, size_t c_step) {
  for (int row = 0; row < 16; row += 2) {
    if (card == HOPPER) {
      add_rows<K, 2>(a, row, 0, b, c + row * c_step, c_step, 25);
    } else {
      add_rows<K / 2, 2>(a, row, 0, b, c + row * c_step, c_step, 24);
      add_rows<K / 2, 2>(a, row, K / 2, b, c + row * c_step, c_step, 24);
    }
  }
}

}  // namespace emu
