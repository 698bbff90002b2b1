// Rows of eight columns as one vector, for the products of mma.sync and wgmma.
#pragma once

namespace emu {

// The product of a 16 x K and a K x 8 matrix is K * 16 of these steps.
typedef float Row __attribute__((vector_size(32)));

inline Row row_fma(float a, Row b, Row c) {
#ifdef __FMA__
  return __builtin_ia32_vfmaddps256(Row{a, a, a, a, a, a, a, a}, b, c);
#else
  for (int i = 0; i < 8; ++i) c[i] = __builtin_fmaf(a, b[i], c[i]);
  return c;
#endif
}

}  // namespace emu
