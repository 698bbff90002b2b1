// embed_bwd       dtable[ids[n]] += dx[n], rows added in the order of n
//
// Shapes          ids [N] i32   dx [N, C] f32 or bf16   dtable [V, C] f32, or like dx
// Numerics        sums in f32, from what stands in dtable; one rounding, at the store.
// Parallel        one block a row n; it works when no row before n has its id, and then adds all rows that have it.
// Cost            reads NC elements, at most 4 N^2 bytes of ids (from L2), reads and writes a row of dtable an id.
// Determinism     no atomics: a row of dtable is one block's, which adds in the order of n. The bits of the CPU device.
// Requires        ids in 0..V; rows of another id are skipped.
// Oracle          src/oracle/embed.rs
#include "common/math.cuh"

constexpr int THREADS = 128;

template <typename T, typename U>
__device__ __forceinline__ void embed_bwd(const int32_t* __restrict__ ids,  // [N]
                                          const T* __restrict__ dx,         // [N, C]
                                          U* dtable,                        // [V, C], +=
                                          int32_t n_rows, int32_t vocab, int32_t dim) {
    __shared__ int32_t s_row[THREADS];
    __shared__ int32_t s_before[THREADS / 32];
    int32_t first = blockIdx.x, id = ids[first], column = blockIdx.y * THREADS + threadIdx.x;
    if (id < 0 || id >= vocab) return;
    // The id's first row does the work.
    for (int32_t at = 0; at < first; at += THREADS) {
        int32_t row = at + threadIdx.x;
        if (__syncthreads_or(row < first && ids[row] == id)) return;
    }
    int64_t to = (int64_t)id * dim + column;
    float sum = column < dim ? to_f32(dtable[to]) : 0.0f;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int32_t at = first; at < n_rows; at += THREADS) {
        int32_t row = at + threadIdx.x;
        bool mine = row < n_rows && ids[row] == id;
        unsigned votes = __ballot_sync(0xffffffffu, mine);
        if (lane == 0) s_before[warp] = __popc(votes);
        __syncthreads();  // s_before holds each warp's number of rows
        int slot = __popc(votes & ((1u << lane) - 1)), found = 0;
        for (int w = 0; w < THREADS / 32; w++) {
            slot += w < warp ? s_before[w] : 0;
            found += s_before[w];
        }
        if (mine) s_row[slot] = row;
        __syncthreads();  // s_row holds this part's rows of the id, ascending
        if (column < dim) {
            for (int i = 0; i < found; i++) sum += to_f32(dx[(int64_t)s_row[i] * dim + column]);
        }
        __syncthreads();  // s_row and s_before are read before they are written again
    }
    if (column < dim) dtable[to] = from_f32<U>(sum);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_bwd_f32(const int32_t* __restrict__ ids, const float* __restrict__ dx, float* dtable, int32_t n_rows,
                  int32_t vocab, int32_t dim) {
    embed_bwd(ids, dx, dtable, n_rows, vocab, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_bwd_bf16(const int32_t* __restrict__ ids, const bf16* __restrict__ dx, bf16* dtable,
                   int32_t n_rows, int32_t vocab, int32_t dim) {
    embed_bwd(ids, dx, dtable, n_rows, vocab, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_bwd_bf16_f32(const int32_t* __restrict__ ids, const bf16* __restrict__ dx, float* dtable,
                       int32_t n_rows, int32_t vocab, int32_t dim) {
    embed_bwd(ids, dx, dtable, n_rows, vocab, dim);
}
