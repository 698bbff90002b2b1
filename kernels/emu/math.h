// Arithmetic intrinsics. IEEE ones are exact; `exp2` and `rsqrt` approximations are correctly rounded here, which is
// inside the bounds CUDA documents for its own (ex2.approx: 2 ulp, rsqrt.approx: 2 ulp), but not the same bits:
// kernels whose bits matter use common/math.cuh.
#pragma once

namespace emu {
inline float min_f32(float a, float b) { return a != a ? b : (b != b ? a : (a < b ? a : b)); }
inline float max_f32(float a, float b) { return a != a ? b : (b != b ? a : (a > b ? a : b)); }
}  // namespace emu

// The C library's are calls; these are two instructions.
#define fminf ::emu::min_f32
#define fmaxf ::emu::max_f32
#define fmaf __builtin_fmaf
#define sqrtf __builtin_sqrtf
#define fabsf __builtin_fabsf

inline float rsqrtf(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned int x) { return static_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }

inline unsigned int __float_as_uint(float x) { return emu::bits_of(x); }
inline int __float_as_int(float x) { return static_cast<int>(emu::bits_of(x)); }
inline float __uint_as_float(unsigned int x) { return emu::float_of(x); }
inline float __int_as_float(int x) { return emu::float_of(static_cast<uint32_t>(x)); }

inline int __popc(unsigned int x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned int>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned int __umulhi(unsigned int a, unsigned int b) {
  return static_cast<unsigned int>((static_cast<uint64_t>(a) * b) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline unsigned int __brev(unsigned int x) {
  unsigned int y = 0;
  for (int i = 0; i < 32; ++i) y |= ((x >> i) & 1u) << (31 - i);
  return y;
}

#define HAGGLE_EMU_MIN_MAX(T)                    \
  inline T min(T a, T b) { return a < b ? a : b; } \
  inline T max(T a, T b) { return a > b ? a : b; }
HAGGLE_EMU_MIN_MAX(int)
HAGGLE_EMU_MIN_MAX(unsigned int)
HAGGLE_EMU_MIN_MAX(long)
HAGGLE_EMU_MIN_MAX(unsigned long)
HAGGLE_EMU_MIN_MAX(long long)
HAGGLE_EMU_MIN_MAX(unsigned long long)
#undef HAGGLE_EMU_MIN_MAX
inline float min(float a, float b) { return emu::min_f32(a, b); }
inline float max(float a, float b) { return emu::max_f32(a, b); }
