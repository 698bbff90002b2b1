// CUDA's device language for the host compiler: what a kernel file sees under HAGGLE_EMU.
//
// Keywords, thread indices, barriers, shared memory here; number types, warp operations, atomics, mma in the files
// below. No CUDA header is needed. Calls that can fail carry the line they stand in.
#pragma once

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <type_traits>

#include "emu/runtime.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define __grid_constant__
// build/emu.rs rewrites each static `__shared__` declaration; one it cannot read is one copy a worker thread.
#define __shared__ static thread_local

#define threadIdx (::emu::thread_index())
#define blockIdx (::emu::block_index())
#define blockDim (::emu::block_dim())
#define gridDim (::emu::grid_dim())
#define warpSize 32

// A static shared array: `type name dims`. HAGGLE_TYPE keeps commas inside.
#define HAGGLE_TYPE(...) __VA_ARGS__
#define HAGGLE_SHARED(type, name, dims)    \
  typedef type name##_shared_t dims;       \
  static uint32_t name##_shared_slot = 0;  \
  name##_shared_t& name =                  \
      *static_cast<name##_shared_t*>(::emu::shared_static(&name##_shared_slot, #name, sizeof(name##_shared_t)))

#define __syncthreads() ::emu::sync_threads(0, __FILE__, __LINE__)
#define __syncthreads_count(p) (::emu::sync_threads((p) != 0, __FILE__, __LINE__), static_cast<int>(::emu::g_worker->barrier_count))
#define __syncthreads_and(p) (::emu::sync_threads((p) != 0, __FILE__, __LINE__), static_cast<int>(::emu::g_worker->barrier_all))
#define __syncthreads_or(p) (::emu::sync_threads((p) != 0, __FILE__, __LINE__), static_cast<int>(::emu::g_worker->barrier_any))
inline void __threadfence() { __sync_synchronize(); }  // atomic_thread_fence has the thread sanitizer warn
inline void __threadfence_block() {}

#include "emu/tensor_map.h"
#include "emu/vector.h"
//
#include "emu/atomic.h"
#include "emu/cluster.h"
#include "emu/entry.h"
#include "emu/half.h"
#include "emu/math.h"
#include "emu/mma.h"
#include "emu/sm90.h"
#include "emu/warp.h"
