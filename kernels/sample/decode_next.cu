// decode_next     the next step's rows: ids = token, positions + 1, the position of the noise's key + 1
//
// Shapes          token [N] i32   rows [6, N] i32: ids, positions, seq, logit rows, their positions, their seq
//                 key [N, 3] u64: seed, stream, position
// Numerics        integers.
// Parallel        one thread a row.
// Cost            reads 24N bytes, writes 20N. Bound by its launch.
// Determinism     a row's own.
// Requires        row i samples from row i; rows of a sequence n_seqs or above are padding and stay.
// Oracle          src/ops/sample/oracle.rs
#include "common/types.cuh"

extern "C" __global__ void __launch_bounds__(128)
    decode_next(const int32_t* __restrict__ token,  // [N]
                int32_t* rows,                      // [6, N]
                uint64_t* key,                      // [N, 3]
                int64_t n_rows, int32_t n_seqs) {
    int64_t row = (int64_t)blockIdx.x * 128 + threadIdx.x;
    if (row >= n_rows || rows[2 * n_rows + row] >= n_seqs) return;
    rows[row] = token[row];
    rows[n_rows + row] += 1;
    rows[4 * n_rows + row] += 1;
    key[3 * row + 2] += 1;
}
