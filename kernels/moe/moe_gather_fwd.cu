// moe_gather_fwd  xs[place[n, i]] = x_n: a token's row for each of its experts, expert by expert
//
// Shapes          x [N, C] f32 or bf16   place [N, A] i32, of moe_sort, R = N A   xs [R, C] like x
// Numerics        a copy.
// Parallel        one block a token; 16-byte vectors where rows allow them.
// Cost            reads NC elements and 4R bytes, writes RC elements. Memory bound.
// Sass sm_90a     gather: PREEXIT ACQBULK
// Determinism     a row's bits depend on that row alone.
// Requires        place in 0..R, each once
// Oracle          src/ops/moe/oracle.rs
#include "common/dependent.cuh"
#include "common/math.cuh"

template <int W, typename T>
__device__ __forceinline__ void moe_gather_fwd(const T* x,            // [N, C]
                                               const int32_t* place,  // [N, A]
                                               T* __restrict__ xs,    // [R, C]
                                               int32_t n_active, int32_t dim) {
    await_predecessors();
    int64_t row = blockIdx.x;
    for (int32_t c = threadIdx.x * W; c < dim; c += blockDim.x * W) {
        Pack<T, W> v = load_pack<W>(x + row * dim + c);
        for (int32_t rank = 0; rank < n_active; rank++) {
            store_pack<W>(xs + (int64_t)place[row * n_active + rank] * dim + c, v);
        }
    }
}

template <typename T>
__device__ __forceinline__ void moe_gather_fwd(const T* x, const int32_t* place, T* __restrict__ xs, int32_t n_active,
                                               int32_t dim, int32_t vectors) {
    if (vectors) {
        moe_gather_fwd<PACK<T>>(x, place, xs, n_active, dim);
    } else {
        moe_gather_fwd<1>(x, place, xs, n_active, dim);
    }
}

extern "C" __global__ void __launch_bounds__(128)
    moe_gather_fwd_f32(const float* x, const int32_t* place, float* __restrict__ xs, int32_t n_active, int32_t dim,
                       int32_t vectors) {
    moe_gather_fwd(x, place, xs, n_active, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(128)
    moe_gather_fwd_bf16(const bf16* x, const int32_t* place, bf16* __restrict__ xs, int32_t n_active, int32_t dim,
                        int32_t vectors) {
    moe_gather_fwd(x, place, xs, n_active, dim, vectors);
}
