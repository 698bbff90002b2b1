// Rows of eight columns as one vector, for the products of mma.sync and wgmma.
#pragma once

#include <stdint.h>
#include <string.h>

namespace emu {

// 16 rows of an operand, and the powers of two its elements count as (see tensor.h).
template <int K>
struct Rows {
  float value[16][K], power[16][K];
};

typedef float Row __attribute__((vector_size(32)));
typedef int32_t IntRow __attribute__((vector_size(32)));
typedef uint32_t BitRow __attribute__((vector_size(32)));

inline Row row_load(const float* from) {
  Row row;
  memcpy(&row, from, sizeof row);
  return row;
}

inline Row row_max(Row a, Row b) {
#ifdef __AVX__
  return __builtin_ia32_maxps256(a, b);
#else
  return a > b ? a : b;
#endif
}

// Toward zero; what does not fit an int means nothing.
inline IntRow row_int(Row a) {
#ifdef __AVX__
  return reinterpret_cast<IntRow>(__builtin_ia32_cvttps2dq256(a));
#else
  return __builtin_convertvector(a, IntRow);
#endif
}

inline bool row_any(IntRow mask) {
#ifdef __AVX__
  return __builtin_ia32_movmskps256(reinterpret_cast<Row>(mask)) != 0;
#else
  int any = 0;
  for (int i = 0; i < 8; ++i) any |= mask[i];
  return any != 0;
#endif
}

}  // namespace emu
