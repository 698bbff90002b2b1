// moe_combine_fwd y_n += sum_i gates[n, i] out[place[n, i]], the ranks i in ascending order
//
// Shapes          out [R, C] f32 or bf16   gates [N, A] f32   place [N, A] i32, of moe_sort, R = N A   y [N, C] like out
// Numerics        one chain of fused multiply-adds over ranks in f32, from what stands in y (the residual stream); one
//                 rounding, at the store.
// Parallel        one block a token; 16-byte vectors where rows allow them.
// Cost            2RC FLOP; reads RC + NC elements and 8R bytes, writes NC elements. Memory bound.
// Sass sm_90a     combine: PREEXIT ACQBULK
// Determinism     a token's bits depend on its own rows and gates alone; those of the CPU device.
// Requires        place in 0..R
// Source          Shazeer et al. 2017, arXiv:1701.06538, eq. 1.
// Oracle          src/ops/moe/oracle.rs
#include "common/dependent.cuh"
#include "common/math.cuh"

template <int W, typename T>
__device__ __forceinline__ void moe_combine_fwd(const T* out,          // [R, C]
                                                const float* gates,    // [N, A]
                                                const int32_t* place,  // [N, A]
                                                T* y,                               // [N, C], +=
                                                int32_t n_active, int32_t dim) {
    await_predecessors();
    int64_t row = blockIdx.x;
    for (int32_t c = threadIdx.x * W; c < dim; c += blockDim.x * W) {
        Pack<T, W> sums = load_pack<W>(y + row * dim + c);
        float sum[W];
#pragma unroll
        for (int j = 0; j < W; j++) sum[j] = to_f32(sums.v[j]);
        for (int32_t rank = 0; rank < n_active; rank++) {
            int64_t at = row * n_active + rank;
            float gate = gates[at];
            Pack<T, W> o = load_pack<W>(out + (int64_t)place[at] * dim + c);
#pragma unroll
            for (int j = 0; j < W; j++) sum[j] = fmaf(gate, to_f32(o.v[j]), sum[j]);
        }
#pragma unroll
        for (int j = 0; j < W; j++) sums.v[j] = from_f32<T>(sum[j]);
        store_pack<W>(y + row * dim + c, sums);
    }
}

template <typename T>
__device__ __forceinline__ void moe_combine_fwd(const T* out, const float* gates,
                                                const int32_t* place, T* y, int32_t n_active, int32_t dim,
                                                int32_t vectors) {
    if (vectors) {
        moe_combine_fwd<PACK<T>>(out, gates, place, y, n_active, dim);
    } else {
        moe_combine_fwd<1>(out, gates, place, y, n_active, dim);
    }
}

extern "C" __global__ void __launch_bounds__(128)
    moe_combine_fwd_f32(const float* out, const float* gates,
                        const int32_t* place, float* y, int32_t n_active, int32_t dim, int32_t vectors) {
    moe_combine_fwd(out, gates, place, y, n_active, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(128)
    moe_combine_fwd_bf16(const bf16* out, const float* gates,
                         const int32_t* place, bf16* y, int32_t n_active, int32_t dim, int32_t vectors) {
    moe_combine_fwd(out, gates, place, y, n_active, dim, vectors);
}
