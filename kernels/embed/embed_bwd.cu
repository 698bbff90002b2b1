// embed_bwd       dtable[ids[n]] += dx[n], rows added in the order of n
//
// Shapes          ids [N] i32   order [N] i32, of embed_order   dx [N, C] f32 or bf16   dtable [V, C] f32, or like dx
// Numerics        sums in f32, from what stands in dtable; one rounding, at the store.
// Parallel        a block eight places of the order, which it looks up once, and the columns of 128 threads, 16 bytes of the
//                 wider type each where rows allow it. It adds all rows of the ids whose first place is one of its, of the
//                 last of them beyond its places too.
// Cost            reads NC elements and ~60N bytes of ids and order a 512 columns, reads and writes a row of dtable an id.
// Sass            embed: LDG.E.128 STG.E.128
// Determinism     no atomics: a row of dtable is one block's, which adds in the order of n. The bits of the CPU device.
// Requires        ids in 0..V; rows of another id are skipped.
// Oracle          src/ops/embed/oracle.rs
#include "common/math.cuh"
#include "common/types.cuh"

constexpr int THREADS = 128;
constexpr int PLACES = 8;  // of a block
constexpr int AHEAD = 32;  // places beyond them that are looked up together

template <int N, typename T, typename U>
__device__ __forceinline__ void embed_bwd(const int32_t* __restrict__ ids,    // [N]
                                          const int32_t* __restrict__ order,  // [N]
                                          const T* __restrict__ dx,           // [N, C]
                                          U* dtable,                          // [V, C], +=
                                          int32_t n_rows, int32_t vocab, int32_t dim) {
    // The place before the block's, its own, and the next one.
    __shared__ int32_t s_row[PLACES + 2], s_id[PLACES + 2], s_ahead[AHEAD];
    int64_t first = (int64_t)blockIdx.x * PLACES;
    int t = threadIdx.x;
    int32_t column = (blockIdx.y * blockDim.x + t) * N;
    if (t < PLACES + 2) {
        int64_t place = first - 1 + t;
        bool is_one = place >= 0 && place < n_rows;
        s_row[t] = is_one ? order[place] : 0;
        s_id[t] = is_one ? ids[s_row[t]] : -1;
    }
    __syncthreads();  // s_row, s_id hold the places
    float sum[N] = {};
    auto add = [&](int32_t row) {
        Pack<T, N> x = load_pack<N>(dx + (int64_t)row * dim + column);
#pragma unroll
        for (int e = 0; e < N; e++) sum[e] += to_f32(x.v[e]);
    };
    for (int i = 1; i <= PLACES;) {
        int32_t id = s_id[i];
        int end = i + 1;
        while (end <= PLACES && s_id[end] == id) end++;
        // The block of an id's first place adds all of its rows.
        if (id >= 0 && id < vocab && s_id[i - 1] != id) {
            U* to = dtable + (int64_t)id * dim + column;
            bool live = column < dim;
            if (live) {
                Pack<U, N> x = load_pack<N>(to);
#pragma unroll
                for (int e = 0; e < N; e++) sum[e] = to_f32(x.v[e]);
#pragma unroll 4
                for (int at = i; at < end; at++) add(s_row[at]);
            }
            int found = end > PLACES && s_id[PLACES + 1] == id ? AHEAD : 0;
            for (int64_t at = first + PLACES; found == AHEAD; at += AHEAD) {
                bool mine = t < AHEAD && at + t < n_rows;
                int32_t row = mine ? order[at + t] : 0;
                if (t < AHEAD) s_ahead[t] = row;
                found = __syncthreads_count(mine && ids[row] == id);  // s_ahead begins with this part's rows of the id, ascending
                if (live) {
#pragma unroll 4
                    for (int j = 0; j < found; j++) add(s_ahead[j]);
                }
                __syncthreads();  // s_ahead is read before it is written again
            }
            if (live) {
                Pack<U, N> x;
#pragma unroll
                for (int e = 0; e < N; e++) x.v[e] = from_f32<U>(sum[e]);
                store_pack(to, x);
            }
        }
        i = end;
    }
}

template <typename T, typename U>
__device__ __forceinline__ void embed_bwd(const int32_t* __restrict__ ids, const int32_t* __restrict__ order,
                                          const T* __restrict__ dx, U* dtable, int32_t n_rows, int32_t vocab, int32_t dim,
                                          int32_t vectors) {
    constexpr int N = PACK<T> < PACK<U> ? PACK<T> : PACK<U>;
    vectors ? embed_bwd<N>(ids, order, dx, dtable, n_rows, vocab, dim)
            : embed_bwd<1>(ids, order, dx, dtable, n_rows, vocab, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_bwd_f32(const int32_t* __restrict__ ids, const int32_t* __restrict__ order, const float* __restrict__ dx,
                  float* dtable, int32_t n_rows, int32_t vocab, int32_t dim, int32_t vectors) {
    embed_bwd(ids, order, dx, dtable, n_rows, vocab, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_bwd_bf16(const int32_t* __restrict__ ids, const int32_t* __restrict__ order, const bf16* __restrict__ dx,
                   bf16* dtable, int32_t n_rows, int32_t vocab, int32_t dim, int32_t vectors) {
    embed_bwd(ids, order, dx, dtable, n_rows, vocab, dim, vectors);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_bwd_bf16_f32(const int32_t* __restrict__ ids, const int32_t* __restrict__ order, const bf16* __restrict__ dx,
                       float* dtable, int32_t n_rows, int32_t vocab, int32_t dim, int32_t vectors) {
    embed_bwd(ids, order, dx, dtable, n_rows, vocab, dim, vectors);
}
