// moe_gather_bwd  dx_n = sum_i dxs[place[n, i]] or dx_n += the same, the ranks i in ascending order
//
// Shapes          dxs [R, C] f32 or bf16   place [N, A] i32, of moe_sort, R = N A   dx [N, C] like dxs
// Numerics        sums in f32, from zero or from what stands in dx; one rounding, at the store.
// Parallel        one block a token; 16-byte vectors where rows allow them.
// Cost            reads RC elements and 4R bytes, writes NC elements, and reads them too when adding. Memory bound.
// Determinism     a token's bits depend on its own rows alone; those of the CPU device.
// Requires        place in 0..R
// Oracle          src/ops/moe/oracle.rs
#include "common/math.cuh"

template <int W, typename T>
__device__ __forceinline__ void moe_gather_bwd(const T* __restrict__ dxs,          // [R, C]
                                               const int32_t* __restrict__ place,  // [N, A]
                                               T* dx,                              // [N, C], = or +=
                                               int32_t n_active, int32_t dim, int32_t add) {
    int64_t row = blockIdx.x;
    for (int32_t c = threadIdx.x * W; c < dim; c += blockDim.x * W) {
        Pack<T, W> sums;
        float sum[W];
        if (add) sums = load_pack<W>(dx + row * dim + c);
#pragma unroll
        for (int j = 0; j < W; j++) sum[j] = add ? to_f32(sums.v[j]) : 0.0f;
        for (int32_t rank = 0; rank < n_active; rank++) {
            Pack<T, W> d = load_pack<W>(dxs + (int64_t)place[row * n_active + rank] * dim + c);
#pragma unroll
            for (int j = 0; j < W; j++) sum[j] += to_f32(d.v[j]);
        }
#pragma unroll
        for (int j = 0; j < W; j++) sums.v[j] = from_f32<T>(sum[j]);
        store_pack<W>(dx + row * dim + c, sums);
    }
}

template <typename T>
__device__ __forceinline__ void moe_gather_bwd(const T* __restrict__ dxs, const int32_t* __restrict__ place, T* dx,
                                               int32_t n_active, int32_t dim, int32_t add, int32_t vectors) {
    if (vectors) {
        moe_gather_bwd<PACK<T>>(dxs, place, dx, n_active, dim, add);
    } else {
        moe_gather_bwd<1>(dxs, place, dx, n_active, dim, add);
    }
}

extern "C" __global__ void __launch_bounds__(128)
    moe_gather_bwd_f32(const float* __restrict__ dxs, const int32_t* __restrict__ place, float* dx, int32_t n_active,
                       int32_t dim, int32_t add, int32_t vectors) {
    moe_gather_bwd(dxs, place, dx, n_active, dim, add, vectors);
}

extern "C" __global__ void __launch_bounds__(128)
    moe_gather_bwd_bf16(const bf16* __restrict__ dxs, const int32_t* __restrict__ place, bf16* dx, int32_t n_active,
                        int32_t dim, int32_t add, int32_t vectors) {
    moe_gather_bwd(dxs, place, dx, n_active, dim, add, vectors);
}
