// Dynamic shared memory: `SHARED_DYNAMIC(float, s_x)` declares `float* s_x`, 16-byte aligned, of the bytes the launch
// asked for. Once in a kernel; what it holds is cut out of it by the kernel. Static arrays are plain `__shared__`.
#pragma once

#ifdef HAGGLE_EMU
#define SHARED_DYNAMIC(T, name) T* const name = static_cast<T*>(::emu::shared_dynamic())
#else
#define SHARED_DYNAMIC(T, name)                                     \
  extern __shared__ __align__(16) unsigned char haggle_dynamic_s[]; \
  T* const name = reinterpret_cast<T*>(haggle_dynamic_s)
#endif
