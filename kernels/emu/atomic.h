// Atomics, and loads with cache hints. Blocks run in parallel, so these are the host's own atomics.
#pragma once

namespace emu {

// `*at = f(*at)` in one step; returns what was there.
template <class T, class F>
inline T atomic_update(T* at, F f) {
  T old, fresh;
  __atomic_load(at, &old, __ATOMIC_RELAXED);
  do {
    fresh = f(old);
  } while (!__atomic_compare_exchange(at, &old, &fresh, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace emu

#define HAGGLE_EMU_ATOMICS(T)                                                                               \
  inline T atomicAdd(T* at, T x) { return emu::atomic_update(at, [x](T y) { return static_cast<T>(y + x); }); } \
  inline T atomicMin(T* at, T x) { return emu::atomic_update(at, [x](T y) { return x < y ? x : y; }); }     \
  inline T atomicMax(T* at, T x) { return emu::atomic_update(at, [x](T y) { return x > y ? x : y; }); }     \
  inline T atomicExch(T* at, T x) { return emu::atomic_update(at, [x](T) { return x; }); }
HAGGLE_EMU_ATOMICS(int)
HAGGLE_EMU_ATOMICS(unsigned int)
HAGGLE_EMU_ATOMICS(unsigned long long)
#undef HAGGLE_EMU_ATOMICS

#define HAGGLE_EMU_ATOMIC_BITS(T)                                                              \
  inline T atomicSub(T* at, T x) { return __atomic_fetch_sub(at, x, __ATOMIC_RELAXED); }        \
  inline T atomicAnd(T* at, T x) { return __atomic_fetch_and(at, x, __ATOMIC_RELAXED); }        \
  inline T atomicOr(T* at, T x) { return __atomic_fetch_or(at, x, __ATOMIC_RELAXED); }          \
  inline T atomicXor(T* at, T x) { return __atomic_fetch_xor(at, x, __ATOMIC_RELAXED); }        \
  inline T atomicCAS(T* at, T expected, T fresh) {                                             \
    __atomic_compare_exchange_n(at, &expected, fresh, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
    return expected;                                                                           \
  }
HAGGLE_EMU_ATOMIC_BITS(int)
HAGGLE_EMU_ATOMIC_BITS(unsigned int)
HAGGLE_EMU_ATOMIC_BITS(unsigned long long)
#undef HAGGLE_EMU_ATOMIC_BITS

inline float atomicAdd(float* at, float x) { return emu::atomic_update(at, [x](float y) { return y + x; }); }
inline float atomicExch(float* at, float x) { return emu::atomic_update(at, [x](float) { return x; }); }

template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldca(const T* p) { return *p; }
template <class T> inline T __ldcg(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline void __stcg(T* p, T x) { *p = x; }
template <class T> inline void __stcs(T* p, T x) { *p = x; }
