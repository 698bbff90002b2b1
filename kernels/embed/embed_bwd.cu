// embed_bwd       dtable[ids[n]] += dx[n], rows added in the order of n
//
// Shapes          ids [N] i32   order [N] i32, of embed_order   dx [N, C] f32 or bf16   dtable [V, C] f32, or like dx
// Numerics        sums in f32, from what stands in dtable; one rounding, at the store.
// Parallel        one block a place of the order and 128 columns; the first place of an id adds all rows that have it.
// Cost            reads NC elements and ~16N bytes of ids and order a 128 columns, reads and writes a row of dtable an id.
// Determinism     no atomics: a row of dtable is one block's, which adds in the order of n. The bits of the CPU device.
// Requires        ids in 0..V; rows of another id are skipped.
// Oracle          src/ops/embed/oracle.rs
#include "common/math.cuh"

constexpr int THREADS = 128;

template <typename T, typename U>
__device__ __forceinline__ void embed_bwd(const int32_t* __restrict__ ids,    // [N]
                                          const int32_t* __restrict__ order,  // [N]
                                          const T* __restrict__ dx,           // [N, C]
                                          U* dtable,                          // [V, C], +=
                                          int32_t n_rows, int32_t vocab, int32_t dim) {
    __shared__ int32_t s_row[THREADS];
    int32_t first = blockIdx.x, id = ids[order[first]], column = blockIdx.y * THREADS + threadIdx.x;
    // The id's first place does the work.
    if (id < 0 || id >= vocab || (first > 0 && ids[order[first - 1]] == id)) return;
    int64_t to = (int64_t)id * dim + column;
    float sum = column < dim ? to_f32(dtable[to]) : 0.0f;
    for (int64_t at = first; at < n_rows; at += THREADS) {
        int64_t place = at + threadIdx.x;
        int32_t row = place < n_rows ? order[place] : 0;
        bool mine = place < n_rows && ids[row] == id;
        s_row[threadIdx.x] = row;
        int found = __syncthreads_count(mine);  // s_row begins with this part's rows of the id, ascending
        if (column < dim) {
#pragma unroll 4
            for (int i = 0; i < found; i++) sum += to_f32(dx[(int64_t)s_row[i] * dim + column]);
        }
        if (found < THREADS) break;
        __syncthreads();  // s_row is read before it is written again
    }
    if (column < dim) dtable[to] = from_f32<U>(sum);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_bwd_f32(const int32_t* __restrict__ ids, const int32_t* __restrict__ order, const float* __restrict__ dx,
                  float* dtable, int32_t n_rows, int32_t vocab, int32_t dim) {
    embed_bwd(ids, order, dx, dtable, n_rows, vocab, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_bwd_bf16(const int32_t* __restrict__ ids, const int32_t* __restrict__ order, const bf16* __restrict__ dx,
                   bf16* dtable, int32_t n_rows, int32_t vocab, int32_t dim) {
    embed_bwd(ids, order, dx, dtable, n_rows, vocab, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_bwd_bf16_f32(const int32_t* __restrict__ ids, const int32_t* __restrict__ order, const bf16* __restrict__ dx,
                       float* dtable, int32_t n_rows, int32_t vocab, int32_t dim) {
    embed_bwd(ids, order, dx, dtable, n_rows, vocab, dim);
}
