// moe_gather_fwd  xs_r = x[order[r] / A]: a token's row for each of its experts, expert by expert
//
// Shapes          x [N, C] f32 or bf16   order [R] i32, of moe_sort, R = N A   xs [R, C] like x
// Numerics        a copy.
// Parallel        one block a row; 16-byte vectors where rows allow them.
// Cost            reads NC elements (A times, from cache) and 4R bytes, writes RC elements. Memory bound.
// Sass sm_90a     gather: PREEXIT ACQBULK
// Determinism     a row's bits depend on that row alone.
// Requires        order in 0..R; a row of another number is filled with NaN.
// Oracle          src/ops/moe/oracle.rs
#include "common/dependent.cuh"
#include "common/math.cuh"

template <typename T>
__device__ __forceinline__ void moe_gather_fwd(const T* x,            // [N, C]
                                               const int32_t* order,  // [R]
                                               T* __restrict__ xs,                 // [R, C]
                                               int32_t n_rows, int32_t n_active, int32_t dim, int32_t vectors) {
    await_predecessors();
    int32_t row = order[blockIdx.x];
    T* to = xs + (int64_t)blockIdx.x * dim;
    if (row < 0 || row >= n_rows) {
        for (int32_t i = threadIdx.x; i < dim; i += blockDim.x) to[i] = from_f32<T>(__uint_as_float(0x7fc00000u));
        return;
    }
    const T* from = x + (int64_t)(row / n_active) * dim;
    if (vectors) {
        for (int32_t i = threadIdx.x * PACK<T>; i < dim; i += blockDim.x * PACK<T>) store_pack<PACK<T>>(to + i, load_pack<PACK<T>>(from + i));
    } else {
        for (int32_t i = threadIdx.x; i < dim; i += blockDim.x) to[i] = from[i];
    }
}

extern "C" __global__ void __launch_bounds__(128)
    moe_gather_fwd_f32(const float* x, const int32_t* order, float* __restrict__ xs,
                       int32_t n_rows, int32_t n_active, int32_t dim, int32_t vectors) {
    moe_gather_fwd(x, order, xs, n_rows, n_active, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(128)
    moe_gather_fwd_bf16(const bf16* x, const int32_t* order, bf16* __restrict__ xs,
                        int32_t n_rows, int32_t n_active, int32_t dim, int32_t vectors) {
    moe_gather_fwd(x, order, xs, n_rows, n_active, dim, vectors);
}
