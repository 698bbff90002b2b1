// moe_combine_bwd dout_r = gates[n, i] dy_n,   dgates[n, i] = <dy_n, out_r>,   (n, i) = order[r]
//
// Shapes          dy [N, C] f32 or bf16   out, dout [R, C] like dy   gates, dgates [N, A] f32   order [R] i32, of moe_sort
// Numerics        f32; one rounding, at the store.
// Parallel        half a warp a row; 16-byte vectors where rows allow them. Element c belongs to lane c % 128, eight
//                 neighbouring ones to a thread; each lane is one chain of fused multiply-adds, lanes are added as a tree of
//                 halves, 64, ..., 1.
// Cost            3RC FLOP; reads NC elements (A times, from cache), RC elements and 8R bytes, writes RC elements and 4R bytes.
//                 Memory bound.
// Determinism     a row's bits depend on that row alone; those of the CPU device.
// Derivation      y_n += sum_i g_i out_r is linear in both.
// Requires        order in 0..R
// Oracle          src/ops/moe/oracle.rs
#include "common/reduce.cuh"

constexpr int LANES = 128, THREADS = 16, OWN = LANES / THREADS;

// Adds eight elements at c to the thread's lanes, and stores their gradients; elements past `dim` are none.
template <int W, typename T>
__device__ __forceinline__ void add_own(float (&sum)[OWN], const T* __restrict__ dy, const T* __restrict__ out,
                                        T* __restrict__ dout, float gate, int32_t c, int32_t dim) {
#pragma unroll
    for (int part = 0; part < OWN; part += W) {
        if (c + part >= dim) return;
        Pack<T, W> d = load_pack<W>(dy + c + part), o = load_pack<W>(out + c + part), to;
#pragma unroll
        for (int j = 0; j < W; j++) {
            sum[part + j] = fmaf(to_f32(d.v[j]), to_f32(o.v[j]), sum[part + j]);
            to.v[j] = from_f32<T>(gate * to_f32(d.v[j]));
        }
        store_pack<W>(dout + c + part, to);
    }
}

template <typename T>
__device__ __forceinline__ void moe_combine_bwd(const T* __restrict__ dy,           // [N, C]
                                                const T* __restrict__ out,          // [R, C]
                                                const float* __restrict__ gates,    // [N, A]
                                                const int32_t* __restrict__ order,  // [R]
                                                T* __restrict__ dout,               // [R, C], =
                                                float* __restrict__ dgates,         // [N, A], =
                                                int64_t n_rows, int32_t n_active, int32_t dim, int32_t vectors) {
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / THREADS) + threadIdx.x / THREADS;
    bool live = row < n_rows;
    // Rows past the end walk along with nothing to sum: every lane of a warp takes part in the shuffles.
    int32_t width = live ? dim : 0, source = live ? order[row] : 0;
    float gate = gates[source], sum[OWN] = {};
    const T *d = dy + (int64_t)(source / n_active) * dim, *o = out + (live ? row * dim : 0);
    T* to = dout + (live ? row * dim : 0);
    for (int32_t c = threadIdx.x % THREADS * OWN; c < width; c += LANES) {
        if (vectors) {
            add_own<PACK<T>>(sum, d, o, to, gate, c, width);
        } else {
            add_own<1>(sum, d, o, to, gate, c, width);
        }
    }
#pragma unroll
    for (int j = 0; j < OWN; j++) sum[j] = lanes_sum<THREADS>(sum[j]);
    float dot = ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
    if (live && threadIdx.x % THREADS == 0) dgates[source] = dot;
}

extern "C" __global__ void __launch_bounds__(128)
    moe_combine_bwd_f32(const float* __restrict__ dy, const float* __restrict__ out, const float* __restrict__ gates,
                        const int32_t* __restrict__ order, float* __restrict__ dout, float* __restrict__ dgates,
                        int64_t n_rows, int32_t n_active, int32_t dim, int32_t vectors) {
    moe_combine_bwd(dy, out, gates, order, dout, dgates, n_rows, n_active, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(128)
    moe_combine_bwd_bf16(const bf16* __restrict__ dy, const bf16* __restrict__ out, const float* __restrict__ gates,
                         const int32_t* __restrict__ order, bf16* __restrict__ dout, float* __restrict__ dgates,
                         int64_t n_rows, int32_t n_active, int32_t dim, int32_t vectors) {
    moe_combine_bwd(dy, out, gates, order, dout, dgates, n_rows, n_active, dim, vectors);
}
