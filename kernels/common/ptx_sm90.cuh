// PTX instructions of sm_90a alone, one a function, named as PTX names them. The emulator has each under the same name
// (kernels/emu/sm90.h). Include it in files named *_sm90.cu; what needs the instructions stands under HAGGLE_SM90.
#pragma once

#include "common/ptx.cuh"

#ifdef HAGGLE_EMU
#define HAGGLE_SM90

using ::emu::TensorMap;
using ::emu::fence_mbarrier_init;
using ::emu::fence_proxy_async;
using ::emu::mbarrier_arrive;
using ::emu::mbarrier_arrive_expect_tx;
using ::emu::mbarrier_init;
using ::emu::mbarrier_try_wait_parity;
using ::emu::shared_address;
using ::emu::wgmma_commit_group;
using ::emu::wgmma_fence;

inline void cp_async_bulk_tensor_2d(void* s_to, const TensorMap* map, uint64_t* s_bar, int32_t x, int32_t y) {
    ::emu::bulk_copy(2, s_to, map, s_bar, {x, y, 0});
}

inline void cp_async_bulk_tensor_3d(void* s_to, const TensorMap* map, uint64_t* s_bar, int32_t x, int32_t y, int32_t z) {
    ::emu::bulk_copy(3, s_to, map, s_bar, {x, y, z});
}

template <int N>
inline void setmaxnreg_inc() {}
template <int N>
inline void setmaxnreg_dec() {}

template <int N>
inline void wgmma_wait_group() {
    ::emu::wgmma_wait_group(N);
}

template <int N, bool A_TRANSPOSED, bool B_TRANSPOSED>
inline void wgmma_k16_bf16(float (&d)[N / 8][4], uint64_t a, uint64_t b, int32_t add) {
    ::emu::wgmma(N, d[0], nullptr, a, b, A_TRANSPOSED, B_TRANSPOSED, add);
}

template <int N, bool B_TRANSPOSED>
inline void wgmma_k16_bf16(float (&d)[N / 8][4], const uint32_t (&a)[4], uint64_t b, int32_t add) {
    ::emu::wgmma(N, d[0], a, 0, b, false, B_TRANSPOSED, add);
}

#else

// A tensor as the copy engine sees it, made by the host: a parameter `const __grid_constant__ TensorMap`.
struct alignas(128) TensorMap {
    uint64_t opaque[16];
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HAGGLE_SM90

// Orders this thread's writes to shared memory before the reads of the tensor cores and the copy engine.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#ifdef HAGGLE_WATCHDOG
__device__ __forceinline__ uint64_t global_nanoseconds() {
    uint64_t ns;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
    return ns;
}
#endif

// Orders this thread's initialisations of mbarriers before their use by the copy engine.
__device__ __forceinline__ void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Phases of `count` arrivals each, and of the bytes they expect.
__device__ __forceinline__ void mbarrier_init(uint64_t* s_bar, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(s_bar)), "r"(count) : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t* s_bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(s_bar)) : "memory");
}

// Arrives, and has the phase wait for `bytes` that copies write.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint64_t* s_bar, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(s_bar)), "r"(bytes)
                 : "memory");
}

// True when the phase of this parity is complete; may give up before it is.
__device__ __forceinline__ bool mbarrier_try_wait_parity(uint64_t* s_bar, uint32_t parity) {
    uint32_t done;
    asm volatile(
        "{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(shared_address(s_bar)), "r"(parity)
        : "memory");
    return done;
}

// Starts the copy of the map's box from coordinates x (innermost), y to shared memory; its bytes count at the mbarrier.
__device__ __forceinline__ void cp_async_bulk_tensor_2d(void* s_to, const TensorMap* map, uint64_t* s_bar, int32_t x,
                                                        int32_t y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(s_to)),
        "l"(map), "r"(shared_address(s_bar)), "r"(x), "r"(y)
        : "memory");
}

// The same of a tensor of three dimensions.
__device__ __forceinline__ void cp_async_bulk_tensor_3d(void* s_to, const TensorMap* map, uint64_t* s_bar, int32_t x,
                                                        int32_t y, int32_t z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
        "[%2];" ::"r"(shared_address(s_to)),
        "l"(map), "r"(shared_address(s_bar)), "r"(x), "r"(y), "r"(z)
        : "memory");
}

// Asks for registers, or gives some back: N a thread of this warpgroup from here on.
template <int N>
__device__ __forceinline__ void setmaxnreg_inc() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
__device__ __forceinline__ void setmaxnreg_dec() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

// Orders the accumulators' registers before the first wgmma.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Closes the group of wgmma this warpgroup has started.
__device__ __forceinline__ void wgmma_commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most N groups of this warpgroup are under way.
template <int N>
__device__ __forceinline__ void wgmma_wait_group() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

#define WGMMA_D4(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define WGMMA_D16(j) WGMMA_D4(j), WGMMA_D4(j + 1), WGMMA_D4(j + 2), WGMMA_D4(j + 3)
#define WGMMA_D64(j) WGMMA_D16(j), WGMMA_D16(j + 4), WGMMA_D16(j + 8), WGMMA_D16(j + 12)
#define WGMMA_16 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_32 WGMMA_16 ", " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_64 WGMMA_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_128 WGMMA_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// d [64, N] = a [64, 16] b [16, N], += when `add`; a by rows, b by columns, both bf16 in shared memory, or K by K where
// TRANSPOSED; d f32 over the four warps: a warp has 16 rows, its fragments are those of mma.sync m16n8.
template <int N, bool A_TRANSPOSED, bool B_TRANSPOSED>
__device__ __forceinline__ void wgmma_k16_bf16(float (&d)[N / 8][4], uint64_t a, uint64_t b, int32_t add) {
    static_assert(N == 32 || N == 64 || N == 128 || N == 256, "a shape that is written here");
    if constexpr (N == 32) {
        asm volatile("{.reg .pred p; setp.ne.b32 p, %18, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" WGMMA_16
                     "}, %16, %17, p, 1, 1, %19, %20;}"
                     : WGMMA_D16(0)
                     : "l"(a), "l"(b), "r"(add), "n"(A_TRANSPOSED), "n"(B_TRANSPOSED));
    } else if constexpr (N == 64) {
        asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_32
                     "}, %32, %33, p, 1, 1, %35, %36;}"
                     : WGMMA_D16(0), WGMMA_D16(4)
                     : "l"(a), "l"(b), "r"(add), "n"(A_TRANSPOSED), "n"(B_TRANSPOSED));
    } else if constexpr (N == 128) {
        asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_64
                     "}, %64, %65, p, 1, 1, %67, %68;}"
                     : WGMMA_D64(0)
                     : "l"(a), "l"(b), "r"(add), "n"(A_TRANSPOSED), "n"(B_TRANSPOSED));
    } else if constexpr (N == 256) {
        asm volatile("{.reg .pred p; setp.ne.b32 p, %130, 0; wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WGMMA_128
                     "}, %128, %129, p, 1, 1, %131, %132;}"
                     : WGMMA_D64(0), WGMMA_D64(16)
                     : "l"(a), "l"(b), "r"(add), "n"(A_TRANSPOSED), "n"(B_TRANSPOSED));
    }
}

// The same with a in registers, in the fragments of mma.sync m16n8k16.
template <int N, bool B_TRANSPOSED>
__device__ __forceinline__ void wgmma_k16_bf16(float (&d)[N / 8][4], const uint32_t (&a)[4], uint64_t b, int32_t add) {
    static_assert(N == 64 || N == 128, "a shape that is written here");
    if constexpr (N == 64) {
        asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_32
                     "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;}"
                     : WGMMA_D16(0), WGMMA_D16(4)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(B_TRANSPOSED));
    } else if constexpr (N == 128) {
        asm volatile("{.reg .pred p; setp.ne.b32 p, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_64
                     "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;}"
                     : WGMMA_D64(0)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(B_TRANSPOSED));
    }
}

#undef WGMMA_D4
#undef WGMMA_D16
#undef WGMMA_D64
#undef WGMMA_16
#undef WGMMA_32
#undef WGMMA_64
#undef WGMMA_128

#endif
#endif

#ifdef HAGGLE_SM90

#if defined(HAGGLE_WATCHDOG) && defined(__CUDA_ARCH__)
// Where a wait that does not end is written down: a place of the host's, which outlives the fault. The host sets it, or it is null.
extern "C" {
__device__ uint4* haggle_overdue;
}

// Which thread of which block waits at which mbarrier (a shared address) for which parity (and 1: there is one), then a fault. A
// message from here would be a call, and calls serialise the wgmma around them.
__device__ __forceinline__ void fail_overdue(const uint64_t* s_bar, uint32_t parity) {
    if (haggle_overdue != nullptr) {
        uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        asm volatile("st.volatile.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(haggle_overdue), "r"(block), "r"(threadIdx.x),
                     "r"(shared_address(s_bar)), "r"(parity + 1)
                     : "memory");
        __threadfence_system();
    }
    __trap();
}
#endif

// Waits for the phase of this parity. With HAGGLE_WATCHDOG (the tests that tools/gpu_check packs) a wait of two seconds is a
// fault that names its place (src/device/gpu/cuda_overdue.rs), not a hung GPU.
__device__ __forceinline__ void mbarrier_wait(uint64_t* s_bar, uint32_t parity) {
#if defined(HAGGLE_WATCHDOG) && defined(__CUDA_ARCH__)
    if (mbarrier_try_wait_parity(s_bar, parity)) return;
    uint64_t since = global_nanoseconds();
    while (!mbarrier_try_wait_parity(s_bar, parity)) {
        if (global_nanoseconds() - since > 2000000000u) fail_overdue(s_bar, parity);
    }
#else
    while (!mbarrier_try_wait_parity(s_bar, parity)) {
    }
#endif
}

// The first multiple of 1024 bytes from `s` on, from which 128-byte swizzling counts.
template <class T>
__device__ __forceinline__ T* align_1024(T* s) {
    return s + (1024 - shared_address(s) % 1024) % 1024 / sizeof(T);
}

// The descriptor of a matrix of lines of 64 bf16 (128 bytes, swizzled by 128 bytes, as a tensor map with boxes 64 wide
// lays them): eight lines, then the next eight 1024 bytes on. `transposed_step`: the bytes from 64 elements of a line of a
// transposed matrix to the next 64. 16 elements further along a line are 32 bytes more, sixteen lines further 2048.
__device__ __forceinline__ uint64_t matrix_descriptor(const void* s, uint32_t transposed_step = 16) {
    uint64_t start = (shared_address(s) & 0x3ffff) >> 4;
    return start | (uint64_t)(transposed_step >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

#endif
