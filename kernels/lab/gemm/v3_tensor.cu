// lab_gemm_v3_tensor   c = a b^T, products on tensor cores
//
// A warp multiplies fragments: one mma.sync is 2048 multiply-adds. Rows stand in shared memory as they came, 128 bytes apart, so
// the eight rows that a fragment's load asks for lie in the same banks and are read one after another.
//
// Shapes          a [M, K]   b [N, K]   c [M, N], all bf16
// Numerics        mma.sync m16n8k16 into f32 over K in ascending order, one rounding, at the store.
// Parallel        one block a tile of 64 x 64 of c, a warp 32 x 32 of it: lab/gemm/tensor_tile.cuh.
// Cost            2MNK FLOP; reads MNK / 32 elements, 16 bytes a thread; eight cycles of shared memory a load, of which seven
//                 are conflicts.
// Determinism     the bits of gemm_nt in bf16.
// Requires        K % 8 == 0, a and b on 16 bytes.
// Sass            bf16: HMMA.16816.F32.BF16 LDGSTS.E.BYPASS.128
// Source          PTX ISA, "Matrix Fragments for mma.m16n8k16".
// Oracle          src/ops/gemm/oracle.rs
#include "lab/gemm/tensor_tile.cuh"

// Rows one after another; a lane loads what it needs of them, two elements at a time.
struct RowByRow {
    __device__ __forceinline__ static int at(int row, int chunk) { return row * LAB_CHUNKS + chunk; }

    __device__ __forceinline__ static uint32_t pair(const bf16* s_slot, int row, int q) {
        Pack<bf16, 2> two = load_pack<2>(s_slot + row * GEMM_K + q);
        uint32_t bits;
        memcpy(&bits, &two, sizeof bits);
        return bits;
    }
    __device__ __forceinline__ static void rows_of(uint32_t (&x)[4], const bf16* s_slot, int i0, int q) {
        int row = i0 + threadIdx.x % 32 / 4, step = q + threadIdx.x % 4 * 2;
        x[0] = pair(s_slot, row, step), x[1] = pair(s_slot, row + 8, step);
        x[2] = pair(s_slot, row, step + 8), x[3] = pair(s_slot, row + 8, step + 8);
    }
    __device__ __forceinline__ static void columns_of(uint32_t (&y)[2][2], const bf16* s_slot, int j0, int q) {
        int column = j0 + threadIdx.x % 32 / 4, step = q + threadIdx.x % 4 * 2;
        y[0][0] = pair(s_slot, column, step), y[0][1] = pair(s_slot, column, step + 8);
        y[1][0] = pair(s_slot, column + 8, step), y[1][1] = pair(s_slot, column + 8, step + 8);
    }
};

extern "C" __global__ void __launch_bounds__(128)
    lab_gemm_v3_tensor_bf16(const bf16* __restrict__ a, const bf16* __restrict__ b, bf16* c, int64_t m, int64_t n,
                            int64_t k) {
    tensor_tile<RowByRow>(a, b, c, m, n, k);
}
