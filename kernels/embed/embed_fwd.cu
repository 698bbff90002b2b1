// embed_fwd       x[n] = table[ids[n]]
//
// Shapes          ids [N] i32   table [V, C] f32 or bf16   x [N, C] the same
// Numerics        a copy.
// Parallel        one block a row; 16-byte vectors where rows allow them.
// Cost            reads NC elements and 4N bytes, writes NC elements. Memory bound.
// Sass sm_90a     embed: PREEXIT ACQBULK
// Determinism     a row's bits depend on that row alone.
// Requires        ids in 0..V; a row of another id is filled with NaN.
// Oracle          src/ops/embed/oracle.rs
#include "common/dependent.cuh"
#include "common/math.cuh"

template <typename T>
__device__ __forceinline__ void embed_fwd(const int32_t* __restrict__ ids,  // [N]
                                          const T* __restrict__ table,      // [V, C]
                                          T* __restrict__ x,                // [N, C]
                                          int32_t vocab, int32_t dim, int32_t vectors) {
    await_predecessors();
    int32_t id = ids[blockIdx.x];
    T* to = x + (int64_t)blockIdx.x * dim;
    if (id < 0 || id >= vocab) {
        for (int32_t i = threadIdx.x; i < dim; i += blockDim.x) to[i] = from_f32<T>(__uint_as_float(0x7fc00000u));
        return;
    }
    const T* from = table + (int64_t)id * dim;
    if (vectors) {
        for (int32_t i = threadIdx.x * PACK<T>; i < dim; i += blockDim.x * PACK<T>) store_pack<PACK<T>>(to + i, load_pack<PACK<T>>(from + i));
    } else {
        for (int32_t i = threadIdx.x; i < dim; i += blockDim.x) to[i] = from[i];
    }
}

extern "C" __global__ void __launch_bounds__(128)
    embed_fwd_f32(const int32_t* __restrict__ ids, const float* __restrict__ table, float* __restrict__ x,
                  int32_t vocab, int32_t dim, int32_t vectors) {
    embed_fwd(ids, table, x, vocab, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(128)
    embed_fwd_bf16(const int32_t* __restrict__ ids, const bf16* __restrict__ table,
                   bf16* __restrict__ x, int32_t vocab, int32_t dim, int32_t vectors) {
    embed_fwd(ids, table, x, vocab, dim, vectors);
}
