// PTX instructions, one a function, named as PTX names them. The emulator has each under the same name.
#pragma once

#include "common/types.cuh"

#ifdef HAGGLE_EMU

using ::emu::cp_async_16;
using ::emu::cp_async_commit;
using ::emu::cp_async_wait;
using ::emu::griddepcontrol_launch_dependents;
using ::emu::griddepcontrol_wait;
using ::emu::ldmatrix_x2;
using ::emu::ldmatrix_x2_trans;
using ::emu::ldmatrix_x4;
using ::emu::ldmatrix_x4_trans;

inline void keep(int&) {}

inline float max_nan_f32(float a, float b) { return a < b ? b : a; }
inline float min_nan_f32(float a, float b) { return a > b ? b : a; }
inline void cp_async_bulk_prefetch_L2(const void* at, uint32_t bytes) { ::emu::bulk_prefetch(at, bytes); }

inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ::emu::mma_m16n8k16_bf16(d, a, b, d);
}

#else

// The 32-bit address of shared memory that instructions on it take.
__device__ __forceinline__ uint32_t shared_address(const void* s) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(s));
}

// No instruction: x is in a register here, and what it was computed from is not computed again.
__device__ __forceinline__ void keep(int& x) { asm volatile("" : "+r"(x)); }

// The larger, the smaller of a and b; NaN where a is NaN.
__device__ __forceinline__ float max_nan_f32(float a, float b) {
    float c;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
}
__device__ __forceinline__ float min_nan_f32(float a, float b) {
    float c;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
}

// Starts the copy of 16 bytes from global to shared memory; of these `bytes` (0 or 16) are read, the rest is 0.
__device__ __forceinline__ void cp_async_16(void* s_to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(s_to)), "l"(from), "r"(bytes)
                 : "memory");
}

// Closes the group of copies this thread has started.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N groups of this thread are under way.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Lets the launch behind this one begin, if it may begin early, once all blocks of this one have come here or ended. Before
// sm_90 none may: see common/dependent.cuh.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Waits until the launches before have ended and what they wrote is seen; not at all in a launch that began behind them.
__device__ __forceinline__ void griddepcontrol_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Brings bytes of global memory, a multiple of 16 from one of 16 on, to L2, where they are what all launches see; where launches
// begin early, else it saves nothing.
__device__ __forceinline__ void cp_async_bulk_prefetch_L2(const void* at, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(at), "r"(bytes));
#endif
}

// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8 and receives from
// matrix i the elements 2 (l % 4), 2 (l % 4) + 1 of row l / 4.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&x)[4], const void* s_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(s_row))
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&x)[4], const void* s_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(s_row))
                 : "memory");
}

// Two matrices; the addresses are those of lanes 0 to 15.
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&x)[2], const void* s_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(x[0]), "=r"(x[1])
                 : "r"(shared_address(s_row))
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&x)[2], const void* s_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(x[0]), "=r"(x[1])
                 : "r"(shared_address(s_row))
                 : "memory");
}

// d [16, 8] += a [16, 16] b [16, 8]; a by rows, b by columns, both bf16, d f32.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif
