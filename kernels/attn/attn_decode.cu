// attn_decode     o = softmax(scale q k^T) v over the keys 0 .. pos of the row's sequence, which stand in pages
//
// Shapes          q, o [N, H, D], k_pages, v_pages [P, Hk, S, D] f32 or bf16, S = 32   seq, pos [N] i32
//                 table [B, max_pages] i32
// Numerics        online softmax over chunks of 32 keys: a page is a chunk. Else as attn_fwd.
// Parallel        one block a row and kv head, the group's query heads together. f32: eight lanes a head. bf16: the
//                 heads, and with them the following rows of the sequence, are the 16 rows of a fragment; two of
//                 four warps have the scores of 16 keys of a page each, all a quarter of the output's columns; pages
//                 come by cp.async three ahead.
// Cost            4 D FLOP a row, head and key; reads 2 Hk D elements a row and key. Memory bound.
// Determinism     a row's bits depend on its sequence up to it alone: those of attn_fwd, and in f32 of the CPU device.
// Sass            bf16: HMMA.16816.F32.BF16 LDSM LDGSTS.E.BYPASS.128
// Requires        pages in 0..P; a row with another page becomes NaN.
// Source          Dao et al. 2022, arXiv:2205.14135, alg. 1; Kwon et al. 2023, arXiv:2309.06180 (pages).
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_bf16.cuh"
#include "common/attn_f32.cuh"
#include "common/shared.cuh"

constexpr int QUERIES = 16;  // heads of a group that walk together

template <int ACC>
__device__ __forceinline__ void attn_decode(const float* __restrict__ q,        // [N, H, D]
                                            const float* __restrict__ k_pages,  // [P, Hk, S, D]
                                            const float* __restrict__ v_pages,  // [P, Hk, S, D]
                                            const int32_t* __restrict__ seq,    // [N]
                                            const int32_t* __restrict__ pos,    // [N]
                                            const int32_t* __restrict__ table,  // [B, max_pages]
                                            float* __restrict__ o,              // [N, H, D]
                                            int32_t max_pages, int32_t n_pages, int32_t n_heads, int32_t n_kv_heads,
                                            int32_t dim, float scale) {
    SHARED_DYNAMIC(float, s_q);  // [16, stride], then k, v [32, stride], then p [16, 33]
    int stride = dim | 1, group = n_heads / n_kv_heads, kv = blockIdx.y, query = threadIdx.x / LANES;
    float *s_k = s_q + QUERIES * stride, *s_v = s_k + CHUNK * stride, *s_p = s_v + CHUNK * stride;
    int64_t row = blockIdx.x;
    const int32_t* pages = table + (int64_t)seq[row] * max_pages;
    int32_t n_keys = pos[row] + 1;
    for (int first = 0; first < group; first += QUERIES) {
        int heads = min(QUERIES, group - first);
        int64_t at = (row * n_heads + kv * group + first) * dim;
        __syncthreads();  // the last heads' q is read
        load_rows(s_q, stride, q + at, dim, QUERIES, heads, dim);
        Walk<ACC> w;
        w.open();
        for (int32_t chunk = 0; chunk < n_keys; chunk += CHUNK) {
            int keys = min(CHUNK, n_keys - chunk);
            int32_t page = chunk / CHUNK < max_pages ? pages[chunk / CHUNK] : -1;
            bool known = page >= 0 && page < n_pages;
            int64_t from = ((int64_t)(known ? page : 0) * n_kv_heads + kv) * CHUNK * dim;
            __syncthreads();  // the last chunk is read
            load_rows(s_k, stride, k_pages + from, dim, CHUNK, keys, dim);
            load_rows(s_v, stride, v_pages + from, dim, CHUNK, keys, dim);
            __syncthreads();  // q and the chunk stand in shared memory
            if (!known) w.sum = __uint_as_float(0x7fc00000u);
            walk_chunk(w, s_q + query * stride, s_k, s_v, s_p + query * (CHUNK + 1), stride, dim, keys, scale);
        }
        if (query < heads) w.store(o + at + (int64_t)query * dim, dim);
    }
}

extern "C" __global__ void __launch_bounds__(QUERIES * LANES, 1)
    attn_decode_f32_d32(const float* __restrict__ q, const float* __restrict__ k_pages,
                        const float* __restrict__ v_pages, const int32_t* __restrict__ seq,
                        const int32_t* __restrict__ pos, const int32_t* __restrict__ table, float* __restrict__ o,
                        int64_t /* n_rows */, int32_t max_pages, int32_t n_pages, int32_t n_heads,
                        int32_t n_kv_heads, int32_t dim, float scale) {
    attn_decode<32 / LANES>(q, k_pages, v_pages, seq, pos, table, o, max_pages, n_pages, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(QUERIES * LANES, 1)
    attn_decode_f32_d64(const float* __restrict__ q, const float* __restrict__ k_pages,
                        const float* __restrict__ v_pages, const int32_t* __restrict__ seq,
                        const int32_t* __restrict__ pos, const int32_t* __restrict__ table, float* __restrict__ o,
                        int64_t /* n_rows */, int32_t max_pages, int32_t n_pages, int32_t n_heads,
                        int32_t n_kv_heads, int32_t dim, float scale) {
    attn_decode<64 / LANES>(q, k_pages, v_pages, seq, pos, table, o, max_pages, n_pages, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(QUERIES * LANES, 1)
    attn_decode_f32_d128(const float* __restrict__ q, const float* __restrict__ k_pages,
                         const float* __restrict__ v_pages, const int32_t* __restrict__ seq,
                         const int32_t* __restrict__ pos, const int32_t* __restrict__ table, float* __restrict__ o,
                         int64_t /* n_rows */, int32_t max_pages, int32_t n_pages, int32_t n_heads,
                         int32_t n_kv_heads, int32_t dim, float scale) {
    attn_decode<128 / LANES>(q, k_pages, v_pages, seq, pos, table, o, max_pages, n_pages, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(QUERIES * LANES, 1)
    attn_decode_f32_d256(const float* __restrict__ q, const float* __restrict__ k_pages,
                         const float* __restrict__ v_pages, const int32_t* __restrict__ seq,
                         const int32_t* __restrict__ pos, const int32_t* __restrict__ table, float* __restrict__ o,
                         int64_t /* n_rows */, int32_t max_pages, int32_t n_pages, int32_t n_heads,
                         int32_t n_kv_heads, int32_t dim, float scale) {
    attn_decode<256 / LANES>(q, k_pages, v_pages, seq, pos, table, o, max_pages, n_pages, n_heads, n_kv_heads, dim, scale);
}

constexpr int PAGES = 4;  // of the ring of a bf16 block

// Rows from `row` on that walk together: they follow each other in one sequence, `most` at most, and their positions
// lie in one aligned group of `most`. 0 when the row before leads this one.
__device__ __forceinline__ int rows_together(const int32_t* __restrict__ seq, const int32_t* __restrict__ pos,
                                             int64_t row, int64_t n_rows, int most) {
    auto follows = [&](int64_t r) {
        return seq[r] == seq[r - 1] && pos[r] == pos[r - 1] + 1 && pos[r] % most != 0;
    };
    if (row > 0 && follows(row)) return 0;
    int n = 1;
    while (n < most && row + n < n_rows && follows(row + n)) n++;
    return n;
}

template <int D>
__device__ __forceinline__ void attn_decode_bf16(const bf16* __restrict__ q,         // [N, H, D]
                                                 const bf16* __restrict__ k_pages,   // [P, Hk, S, D]
                                                 const bf16* __restrict__ v_pages,   // [P, Hk, S, D]
                                                 const int32_t* __restrict__ seq,    // [N]
                                                 const int32_t* __restrict__ pos,    // [N]
                                                 const int32_t* __restrict__ table,  // [B, max_pages]
                                                 bf16* __restrict__ o,               // [N, H, D]
                                                 int64_t n_rows, int32_t max_pages, int32_t n_pages, int32_t n_heads,
                                                 int32_t n_kv_heads, float scale) {
    SHARED_DYNAMIC(bf16, s_q);  // [16, D], then 4 times k [32, D], v [32, D], then scores [16, 36] f32
    bf16* s_ring = s_q + 16 * D;
    float* s_s = reinterpret_cast<float*>(s_ring + PAGES * 2 * CHUNK * D);
    constexpr int S_STRIDE = CHUNK + 4;
    int group = n_heads / n_kv_heads, kv = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int64_t row = blockIdx.x;
    int most = group < 16 ? 16 / group : 1, together = rows_together(seq, pos, row, n_rows, most);
    if (together == 0) return;
    const int32_t* pages = table + (int64_t)seq[row] * max_pages;
    int32_t n_keys = pos[row] + together, first_keys = pos[row] + 1;
    for (int first = 0; first < group; first += 16) {
        int heads = min(16, group - first), live = together * heads;
        // Row i of the fragment is head i % heads of row i / heads.
        auto at = [&](int i) { return ((row + i / heads) * n_heads + kv * group + first + i % heads) * (int64_t)D; };
        bool unknown = false;
        auto load = [&](int32_t chunk) {
            if (chunk < n_keys) {
                int32_t page = chunk / CHUNK < max_pages ? pages[chunk / CHUNK] : -1;
                bool known = page >= 0 && page < n_pages;
                unknown |= !known;
                int64_t from = ((int64_t)(known ? page : 0) * n_kv_heads + kv) * CHUNK * D;
                bf16* s_k = s_ring + chunk / CHUNK % PAGES * 2 * CHUNK * D;
                load_tile<D>(s_k, k_pages + from, D, CHUNK, n_keys - chunk);
                load_tile<D>(s_k + CHUNK * D, v_pages + from, D, CHUNK, n_keys - chunk);
            }
            cp_async_commit();  // an empty group keeps the count
        };
        __syncthreads();  // the last heads are done
        for (int i = threadIdx.x; i < 16 * D / 8; i += blockDim.x) {
            int r = i / (D / 8), chunk = i % (D / 8);
            bool in = r < live;
            cp_async_16(s_q + 8 * swizzled<D / 8>(r, chunk), q + (in ? at(r) + chunk * 8 : 0), in ? 16 : 0);
        }
#pragma unroll
        for (int page = 0; page < PAGES - 1; page++) load(page * CHUNK);
        Softmax softmax;
        softmax.open();
        constexpr int TILES = D / 32;  // of eight columns, a warp
        float acc[TILES < 2 ? 2 : TILES][4] = {};
        int fragment_row = lane / 4;
        for (int32_t chunk = 0; chunk < n_keys; chunk += CHUNK) {
            cp_async_wait<PAGES - 2>();
            __syncthreads();  // q and this page stand in shared memory, the last page is read
            load(chunk + (PAGES - 1) * CHUNK);
            const bf16* s_k = s_ring + chunk / CHUNK % PAGES * 2 * CHUNK * D;
            if (warp % 2 == 0) {
                // Sixteen keys a warp of the even ones: an ldmatrix brings B for 16 columns.
                float part[2][4];
                dot_rows<D>(part, s_q, 0, s_k, warp * 8);
#pragma unroll
                for (int j = 0; j < 2; j++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        int column = (warp + j) * 8 + lane % 4 * 2 + e % 2;
                        s_s[(fragment_row + e / 2 * 8) * S_STRIDE + column] = part[j][e];
                    }
                }
            }
            __syncthreads();  // s_s holds the page's scores
            float s[4][4], shrink[2];
#pragma unroll
            for (int j = 0; j < 4; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    s[j][e] = s_s[(fragment_row + e / 2 * 8) * S_STRIDE + j * 8 + lane % 4 * 2 + e % 2];
                }
            }
            int seen[2] = {first_keys + fragment_row / heads - chunk, first_keys + (fragment_row + 8) / heads - chunk};
            softmax.step(s, seen, scale, shrink);
            shrink_rows(acc, shrink);
            if (D >= 64 || warp % 2 == 0) add_product<D>(acc, s, s_k + CHUNK * D, warp * (D / 4));
        }
        cp_async_wait<0>();  // nothing is under way when the block ends
        if (D < 64 && warp % 2 == 1) continue;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int i = fragment_row + 8 * r;
            if (i >= live) continue;
            float inverse = unknown ? __uint_as_float(0x7fc00000u) : 1.0f / softmax.sum[r];
            bf16* to = o + at(i) + warp * (D / 4) + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < (TILES < 2 ? 2 : TILES); j++) {
                store_pack<2>(to + j * 8, Pack<bf16, 2>{{from_f32<bf16>(acc[j][2 * r] * inverse),
                                                         from_f32<bf16>(acc[j][2 * r + 1] * inverse)}});
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_decode_bf16_d32(const bf16* __restrict__ q, const bf16* __restrict__ k_pages,
                         const bf16* __restrict__ v_pages, const int32_t* __restrict__ seq,
                         const int32_t* __restrict__ pos, const int32_t* __restrict__ table, bf16* __restrict__ o,
                         int64_t n_rows, int32_t max_pages, int32_t n_pages, int32_t n_heads, int32_t n_kv_heads,
                         int32_t /* dim */, float scale) {
    attn_decode_bf16<32>(q, k_pages, v_pages, seq, pos, table, o, n_rows, max_pages, n_pages, n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_decode_bf16_d64(const bf16* __restrict__ q, const bf16* __restrict__ k_pages,
                         const bf16* __restrict__ v_pages, const int32_t* __restrict__ seq,
                         const int32_t* __restrict__ pos, const int32_t* __restrict__ table, bf16* __restrict__ o,
                         int64_t n_rows, int32_t max_pages, int32_t n_pages, int32_t n_heads, int32_t n_kv_heads,
                         int32_t /* dim */, float scale) {
    attn_decode_bf16<64>(q, k_pages, v_pages, seq, pos, table, o, n_rows, max_pages, n_pages, n_heads, n_kv_heads, scale);
}

extern "C" __global__ void __launch_bounds__(128, 1)
    attn_decode_bf16_d128(const bf16* __restrict__ q, const bf16* __restrict__ k_pages,
                          const bf16* __restrict__ v_pages, const int32_t* __restrict__ seq,
                          const int32_t* __restrict__ pos, const int32_t* __restrict__ table, bf16* __restrict__ o,
                          int64_t n_rows, int32_t max_pages, int32_t n_pages, int32_t n_heads, int32_t n_kv_heads,
                          int32_t /* dim */, float scale) {
    attn_decode_bf16<128>(q, k_pages, v_pages, seq, pos, table, o, n_rows, max_pages, n_pages, n_heads, n_kv_heads, scale);
}
