// lab_gemm_v4_swizzled   c = a b^T, chunks swizzled over the banks and read by ldmatrix
//
// Chunk j of row i stands where chunk j ^ i would (modulo eight): the eight rows that ldmatrix reads at once lie in eight
// different groups of banks, and one instruction brings a warp four 8 x 8 matrices.
//
// Shapes          a [M, K]   b [N, K]   c [M, N], all bf16
// Numerics        mma.sync m16n8k16 into f32 over K in ascending order, one rounding, at the store.
// Parallel        one block a tile of 64 x 64 of c, a warp 32 x 32 of it: lab/gemm/tensor_tile.cuh.
// Cost            2MNK FLOP; reads MNK / 32 elements; no conflicts. Copies and products take turns: it waits for memory once
//                 every 64 steps of K.
// Determinism     the bits of gemm_nt in bf16.
// Requires        K % 8 == 0, a and b on 16 bytes.
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Source          common/mma.cuh; PTX ISA, "ldmatrix".
// Oracle          src/ops/gemm/oracle.rs
#include "lab/gemm/tensor_tile.cuh"

struct Swizzled {
    __device__ __forceinline__ static int at(int row, int chunk) { return swizzled<LAB_CHUNKS>(row, chunk); }
    __device__ __forceinline__ static void rows_of(uint32_t (&x)[4], const bf16* s_slot, int i0, int q) {
        frag_a<LAB_CHUNKS>(x, s_slot, i0, q);
    }
    __device__ __forceinline__ static void columns_of(uint32_t (&y)[2][2], const bf16* s_slot, int j0, int q) {
        frag_b<LAB_CHUNKS>(y, s_slot, j0, q);
    }
};

extern "C" __global__ void __launch_bounds__(128)
    lab_gemm_v4_swizzled_bf16(const bf16* __restrict__ a, const bf16* __restrict__ b, bf16* c, int64_t m, int64_t n,
                              int64_t k) {
    tensor_tile<Swizzled>(a, b, c, m, n, k);
}
