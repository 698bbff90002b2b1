// moe_combine_bwd dout_r = gates[n, i] dy_n,   dgates[n, i] = <dy_n, out_r>,   r = place[n, i]
//
// Shapes          dy [N, C] f32 or bf16   out, dout [R, C] like dy   gates, dgates [N, A] f32   place [N, A] i32, of moe_sort
// Numerics        f32; one rounding, at the store.
// Parallel        one block a token, whose dy stands in shared memory; half a warp a row; 16-byte vectors where rows allow them.
//                 Element c belongs to lane c % 128, and eight lanes to a thread, a vector's side by side; each lane is one
//                 chain of fused multiply-adds, lanes are added as a tree of halves, 64, ..., 1.
// Cost            3RC FLOP; reads NC elements, RC elements and 8R bytes, writes RC elements and 4R bytes.
//                 Memory bound.
// Determinism     a row's bits depend on that row alone; those of the CPU device.
// Derivation      y_n += sum_i g_i out_r is linear in both.
// Requires        place in 0..R, each once; a row fits into shared memory.
// Oracle          src/ops/moe/oracle.rs
#include "common/reduce.cuh"
#include "common/shared.cuh"

constexpr int LANES = 128, THREADS = 16, OWN = LANES / THREADS;

template <int W, typename T>
__device__ __forceinline__ void moe_combine_bwd(const T* __restrict__ dy,           // [N, C]
                                                const T* __restrict__ out,          // [R, C]
                                                const float* __restrict__ gates,    // [N, A]
                                                const int32_t* __restrict__ place,  // [N, A]
                                                T* __restrict__ dout,               // [R, C], =
                                                float* __restrict__ dgates,         // [N, A], =
                                                int32_t n_active, int32_t dim) {
    SHARED_DYNAMIC(T, s_dy);  // [C]
    int64_t row = blockIdx.x;
    for (int32_t c = threadIdx.x * W; c < dim; c += blockDim.x * W) store_pack(s_dy + c, load_pack<W>(dy + row * dim + c));
    __syncthreads();  // s_dy is the token's dy
    int thread = threadIdx.x % THREADS, half = threadIdx.x / THREADS;
    // A warp's halves stay together, one of them perhaps without a row: every lane takes part in the shuffles.
    for (int32_t rank = half; rank - half % 2 < n_active; rank += blockDim.x / THREADS) {
        bool live = rank < n_active;
        int64_t at = row * n_active + (live ? rank : 0), place_at = (int64_t)place[at] * dim;
        int32_t width = live ? dim : 0;
        float gate = gates[at], sum[OWN] = {};
        for (int32_t base = thread * W; base < width; base += LANES) {
#pragma unroll
            for (int part = 0; part < OWN; part += W) {
                int32_t c = base + part * THREADS;
                if (c >= width) break;
                Pack<T, W> d = load_pack<W>(s_dy + c), o = load_pack<W>(out + place_at + c), to;
#pragma unroll
                for (int j = 0; j < W; j++) {
                    sum[part + j] = fmaf(to_f32(d.v[j]), to_f32(o.v[j]), sum[part + j]);
                    to.v[j] = from_f32<T>(gate * to_f32(d.v[j]));
                }
                store_pack<W>(dout + place_at + c, to);
            }
        }
        // Lane part THREADS + thread W + j: halves of parts, of threads, of a vector.
#pragma unroll
        for (int n = OWN / 2; n >= W; n /= 2) {
            for (int j = 0; j < n; j++) sum[j] += sum[j + n];
        }
#pragma unroll
        for (int j = 0; j < W; j++) sum[j] = lanes_sum<THREADS>(sum[j]);
#pragma unroll
        for (int n = W / 2; n > 0; n /= 2) {
            for (int j = 0; j < n; j++) sum[j] += sum[j + n];
        }
        if (live && thread == 0) dgates[at] = sum[0];
    }
}

template <typename T>
__device__ __forceinline__ void moe_combine_bwd(const T* __restrict__ dy, const T* __restrict__ out,
                                                const float* __restrict__ gates, const int32_t* __restrict__ place,
                                                T* __restrict__ dout, float* __restrict__ dgates, int32_t n_active,
                                                int32_t dim, int32_t vectors) {
    if (vectors) {
        moe_combine_bwd<PACK<T>>(dy, out, gates, place, dout, dgates, n_active, dim);
    } else {
        moe_combine_bwd<1>(dy, out, gates, place, dout, dgates, n_active, dim);
    }
}

extern "C" __global__ void __launch_bounds__(128)
    moe_combine_bwd_f32(const float* __restrict__ dy, const float* __restrict__ out, const float* __restrict__ gates,
                        const int32_t* __restrict__ place, float* __restrict__ dout, float* __restrict__ dgates,
                        int32_t n_active, int32_t dim, int32_t vectors) {
    moe_combine_bwd(dy, out, gates, place, dout, dgates, n_active, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(128)
    moe_combine_bwd_bf16(const bf16* __restrict__ dy, const bf16* __restrict__ out, const float* __restrict__ gates,
                         const int32_t* __restrict__ place, bf16* __restrict__ dout, float* __restrict__ dgates,
                         int32_t n_active, int32_t dim, int32_t vectors) {
    moe_combine_bwd(dy, out, gates, place, dout, dgates, n_active, dim, vectors);
}
