// attn_merge      o = sum_g o_g w_g / sum_g l_g w_g,   w_g = e^(m_g - max_g m_g) in f32, 2^() in bf16; segments g
//
// Shapes          parts [N, H, G, 2 + D] f32: m, l, o of each   pos [N] i32   o [N, H, D] f32 or bf16
// Numerics        segments are merged in ascending order, as attn_fwd merges them (common/attn.cuh).
// Parallel        one block a row and head, a thread an element of o.
// Cost            reads 4 (D + 2) bytes a row, head and segment. Bound by latency.
// Sass sm_90a     attn: PREEXIT ACQBULK
// Determinism     a row's bits are those of attn_fwd.
// Requires        parts of all segments of the row; one of more than G becomes NaN. Rows of one segment keep their o.
// Source          Dao et al. 2023, "Flash-Decoding for long-context inference"; but with an order.
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_pages.cuh"
#include "common/dependent.cuh"

template <class T>
__device__ __forceinline__ void attn_merge(Parts parts, const int32_t* __restrict__ pos,  // [N]
                                           T* __restrict__ o,                             // [N, H, D]
                                           int32_t n_heads) {
    await_predecessors();
    int64_t head_row = (int64_t)blockIdx.x * n_heads + blockIdx.y;
    int32_t n = pos[blockIdx.x] / SEGMENT + 1;
    if (n == 1 || (int)threadIdx.x >= parts.dim) return;  // attn_decode has stored it
    const float* part = parts.of(head_row, 0);
    float max = part[0], sum = part[1], x = part[2 + threadIdx.x];
#pragma unroll 4
    for (int32_t segment = 1; segment < min(n, parts.n_segments); segment++) {
        part += 2 + parts.dim;
        Merge by = merge_segment<T>(max, sum, part[0], part[1]);
        x = fmaf(part[2 + threadIdx.x], by.part, x * by.total);
    }
    if (!parts.has(n - 1)) sum = __uint_as_float(0x7fc00000u);
    o[head_row * parts.dim + threadIdx.x] = from_f32<T>(x * (1.0f / sum));
}

extern "C" __global__ void __launch_bounds__(256, 1)
    attn_merge_f32(float* parts, const int32_t* __restrict__ pos, float* __restrict__ o,
                   int32_t n_segments, int32_t n_heads, int32_t dim) {
    attn_merge(Parts{parts, n_segments, dim}, pos, o, n_heads);
}

extern "C" __global__ void __launch_bounds__(256, 1)
    attn_merge_bf16(float* parts, const int32_t* __restrict__ pos, bf16* __restrict__ o,
                    int32_t n_segments, int32_t n_heads, int32_t dim) {
    attn_merge(Parts{parts, n_segments, dim}, pos, o, n_heads);
}
