// lab_gemm_v2_shared   c = a b^T, tiles of a and b in shared memory: each element is read once a tile
//
// What the 32 threads of a row of the tile would each read, one of them reads for all.
//
// Shapes          a [M, K]   b [N, K]   c [M, N], all bf16
// Numerics        one chain of fused multiply-adds over K in f32, one rounding, at the store.
// Parallel        one block a tile of 32 x 32 of c, still one thread an element; 32 steps of K stand in shared memory.
// Cost            2MNK FLOP; reads MNK / 16 elements, 64 neighbouring bytes a request; two words of shared memory a
//                 multiply-add, which is what binds it now.
// Determinism     the bits of lab_gemm_v1_naive_bf16.
// Oracle          src/ops/gemm/oracle.rs
#include "common/math.cuh"

constexpr int TILE = 32;          // rows, columns and steps
constexpr int ROW = TILE + 1;     // words from row to row: 32 rows' words of one step lie in 32 banks

extern "C" __global__ void __launch_bounds__(TILE * TILE)
    lab_gemm_v2_shared_bf16(const bf16* __restrict__ a,  // [M, K]
                            const bf16* __restrict__ b,  // [N, K]
                            bf16* c,                     // [M, N]
                            int64_t m, int64_t n, int64_t k) {
    __shared__ float s_a[TILE * ROW];  // [row, step]
    __shared__ float s_b[TILE * ROW];  // [column, step]
    int x = threadIdx.x, y = threadIdx.y, mine = y * ROW + x;
    int64_t i = (int64_t)blockIdx.y * TILE + y, j0 = (int64_t)blockIdx.x * TILE;
    float sum = 0.0f;
    for (int64_t q = x; q - x < k; q += TILE) {
        s_a[mine] = i < m && q < k ? to_f32(a[i * k + q]) : 0.0f;
        s_b[mine] = j0 + y < n && q < k ? to_f32(b[(j0 + y) * k + q]) : 0.0f;
        __syncthreads();  // 32 steps of both tiles stand in shared memory
        for (int step = 0; step < TILE; step++) sum = fmaf(s_a[y * ROW + step], s_b[x * ROW + step], sum);
        __syncthreads();  // they are read before the next ones are written
    }
    if (i < m && j0 + x < n) c[i * n + j0 + x] = from_f32<bf16>(sum);
}
