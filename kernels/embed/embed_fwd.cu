// embed_fwd       x[n] = table[ids[n]]
//
// Shapes          ids [N] i32   table [V, C] f32 or bf16   x [N, C] the same
// Numerics        a copy.
// Parallel        a block a row, or as many as its 128 threads have vectors for, 16 bytes each where rows allow it.
// Cost            reads NC elements and 4N bytes, writes NC elements. Memory bound.
// Sass sm_90a     embed: PREEXIT ACQBULK
// Determinism     a row's bits depend on that row alone.
// Requires        ids in 0..V; a row of another id is filled with NaN.
// Oracle          src/ops/embed/oracle.rs
#include "common/dependent.cuh"
#include "common/math.cuh"

template <int N, typename T>
__device__ __forceinline__ void embed_fwd(const int32_t* __restrict__ ids,  // [N]
                                          const T* __restrict__ table,      // [V, C]
                                          T* __restrict__ x,                // [N, C]
                                          int64_t n_rows, int32_t vocab, int32_t dim, int32_t rows) {
    int64_t first = (int64_t)blockIdx.x * rows;
    int32_t live = (int32_t)min((int64_t)rows, n_rows - first);
    await_predecessors();
    for (int32_t i = threadIdx.x * N; i < live * dim; i += blockDim.x * N) {
        int32_t id = ids[first + i / dim];
        Pack<T, N> v;
        if (id >= 0 && id < vocab) {
            v = load_pack<N>(table + (int64_t)id * dim + i % dim);
        } else {
#pragma unroll
            for (int e = 0; e < N; e++) v.v[e] = from_f32<T>(__uint_as_float(0x7fc00000u));
        }
        store_pack(x + first * dim + i, v);
    }
}

template <typename T>
__device__ __forceinline__ void embed_fwd(const int32_t* __restrict__ ids, const T* __restrict__ table, T* __restrict__ x,
                                          int64_t n_rows, int32_t vocab, int32_t dim, int32_t rows, int32_t vectors) {
    vectors ? embed_fwd<PACK<T>>(ids, table, x, n_rows, vocab, dim, rows)
            : embed_fwd<1>(ids, table, x, n_rows, vocab, dim, rows);
}

extern "C" __global__ void __launch_bounds__(128)
    embed_fwd_f32(const int32_t* __restrict__ ids, const float* __restrict__ table, float* __restrict__ x,
                  int64_t n_rows, int32_t vocab, int32_t dim, int32_t rows, int32_t vectors) {
    embed_fwd(ids, table, x, n_rows, vocab, dim, rows, vectors);
}

extern "C" __global__ void __launch_bounds__(128)
    embed_fwd_bf16(const int32_t* __restrict__ ids, const bf16* __restrict__ table,
                   bf16* __restrict__ x, int64_t n_rows, int32_t vocab, int32_t dim, int32_t rows, int32_t vectors) {
    embed_fwd(ids, table, x, n_rows, vocab, dim, rows, vectors);
}
