// CUDA's small vector types, with its alignments.
#pragma once

#define HAGGLE_EMU_VECTORS(T, name, a1, a2, a4)                                                    \
  struct alignas(a1) name##1 { T x; };                                                             \
  struct alignas(a2) name##2 { T x, y; };                                                          \
  struct name##3 { T x, y, z; };                                                                   \
  struct alignas(a4) name##4 { T x, y, z, w; };                                                    \
  inline name##1 make_##name##1(T x) { return {x}; }                                               \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                       \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                               \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using longlong = long long;
using ulonglong = unsigned long long;

HAGGLE_EMU_VECTORS(signed char, char, 1, 2, 4)
HAGGLE_EMU_VECTORS(unsigned char, uchar, 1, 2, 4)
HAGGLE_EMU_VECTORS(short, short, 2, 4, 8)
HAGGLE_EMU_VECTORS(unsigned short, ushort, 2, 4, 8)
HAGGLE_EMU_VECTORS(int, int, 4, 8, 16)
HAGGLE_EMU_VECTORS(unsigned int, uint, 4, 8, 16)
HAGGLE_EMU_VECTORS(float, float, 4, 8, 16)
HAGGLE_EMU_VECTORS(long long, longlong, 8, 16, 16)
HAGGLE_EMU_VECTORS(unsigned long long, ulonglong, 8, 16, 16)
HAGGLE_EMU_VECTORS(double, double, 8, 16, 16)

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};
