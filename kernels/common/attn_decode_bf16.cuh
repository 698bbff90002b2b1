// Attention in bf16 of rows over the pages of their sequences: what attn_decode_bf16 and attn_step_bf16 share. Where a row's
// queries come from says `Source`.
#pragma once

#include "common/attn_bf16.cuh"
#include "common/attn_step.cuh"
#include "common/dependent.cuh"
#include "common/shared.cuh"

constexpr int RING = 4;              // pages of the ring
constexpr int S_STRIDE = CHUNK + 4;  // floats from a row of scores to the next
constexpr int SEGMENT_PAGES = SEGMENT / CHUNK;

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

// The pages of a block's segments, in the order in which it walks them, and the ring through which they come.
template <int D>
struct Ring {
    bf16* s_ring;   // [RING]: k [32, D], v [32, D]
    const bf16* k;  // of page 0 of this kv head
    const bf16* v;
    int64_t page_stride;   // elements from a page to the next
    const int32_t* pages;  // [max_pages] of the sequence
    int32_t n_keys, max_pages, n_pages;
    bool unknown;  // a page was none

    // First key of the block's page number j.
    __device__ __forceinline__ int32_t key_of(int j) const {
        return (j / SEGMENT_PAGES * gridDim.z + blockIdx.z) * SEGMENT + j % SEGMENT_PAGES * CHUNK;
    }

    __device__ __forceinline__ bf16* k_of(int j) const { return s_ring + j % RING * 2 * CHUNK * D; }

    // Starts to load page number j.
    __device__ __forceinline__ void load(int j) {
        int32_t chunk = key_of(j);
        if (chunk < n_keys) {
            int32_t page = page_at(pages, chunk, max_pages, n_pages);
            unknown |= page < 0;
            int64_t from = max(page, 0) * page_stride;
            load_tile<D>(k_of(j), k + from, D, CHUNK, n_keys - chunk);
            load_tile<D>(k_of(j) + CHUNK * D, v + from, D, CHUNK, n_keys - chunk);
        }
        cp_async_commit();  // an empty group keeps the count
    }

    // A row's sum, or NaN.
    __device__ __forceinline__ float or_nan(float sum) const { return unknown ? __uint_as_float(0x7fc00000u) : sum; }
};

// Stores row r of acc as it is; `to` is this lane's first column.
template <int TILES>
__device__ __forceinline__ void store_part(float* to, const float (&acc)[TILES][4], int r) {
#pragma unroll
    for (int j = 0; j < TILES; j++) store_pack<2>(to + j * 8, Pack<float, 2>{{acc[j][2 * r], acc[j][2 * r + 1]}});
}

// s [16, 32] = rows of s_q times the keys of a page: even warps make those of 16 keys each (an ldmatrix loads B for 16
// columns), all read them from s_s.
template <int D>
__device__ __forceinline__ void page_scores(float (&s)[4][4], const bf16* s_q, const bf16* s_k, float* s_s) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* s_row = s_s + lane / 4 * S_STRIDE + lane % 4 * 2;
    if (warp % 2 == 0) {
        float part[2][4];
        dot_rows<D>(part, s_q, 0, s_k, warp * 8);
#pragma unroll
        for (int j = 0; j < 2; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) s_row[e / 2 * 8 * S_STRIDE + (warp + j) * 8 + e % 2] = part[j][e];
        }
    }
    __syncthreads();  // s_s holds the page's scores
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) s[j][e] = s_row[e / 2 * 8 * S_STRIDE + j * 8 + e % 2];
    }
}

// Queries [N, H, D] that are there already; rows of a sequence that follow each other walk together.
struct GivenRows {
    static constexpr bool TOGETHER = true;
    const bf16* __restrict__ q;

    template <int D, typename HeadRow>
    __device__ __forceinline__ void stage(bf16* s_q, bf16*, const RowAt&, int, int live, HeadRow head_row) const {
        for (int i = threadIdx.x; i < 16 * D / 8; i += blockDim.x) {
            int r = i / (D / 8), chunk = i % (D / 8);
            bool in = r < live;
            cp_async_16(s_q + 8 * swizzled<D / 8>(r, chunk), q + (in ? head_row(r) * D + chunk * 8 : 0), in ? 16 : 0);
        }
    }
};

// Queries of rows that are new, see common/attn_step.cuh.
struct NewRowsBf16 : NewRows<bf16> {
    template <int D, typename HeadRow>
    __device__ __forceinline__ void stage(bf16* s_q, bf16* s_free, const RowAt& at, int first, int live, HeadRow) const {
        auto to = [=](int32_t i, int32_t d) { return s_q + 8 * swizzled<D / 8>(i, d / 8) + d % 8; };
        for (int i = live * D + threadIdx.x * 8; i < 16 * D; i += blockDim.x * 8) {
            store_pack(to(i / D, i % D), Pack<bf16, 8>{});
        }
        vectors ? NewRows<bf16>::stage<8>(s_free, at, first, live, D, to)
                : NewRows<bf16>::stage<1>(s_free, at, first, live, D, to);
    }
};

template <int D, class Source>
__device__ __forceinline__ void attn_decode(const Source& source, const bf16* k_pages,  // [P, Hk, S, D]
                                            const bf16* v_pages,                        // [P, Hk, S, D]
                                            const int32_t* __restrict__ seq,    // [N]
                                            const int32_t* __restrict__ pos,    // [N]
                                            const int32_t* __restrict__ table,  // [B, max_pages]
                                            bf16* __restrict__ o,               // [N, H, D]
                                            Parts parts, int64_t n_rows, int32_t max_pages, int32_t n_pages,
                                            int32_t n_heads, int32_t n_kv_heads, float scale) {
    SHARED_DYNAMIC(bf16, s_q);  // [16, D], then the ring, then scores [16, 36] f32
    bf16* s_ring = s_q + 16 * D;
    float* s_s = reinterpret_cast<float*>(s_ring + RING * 2 * CHUNK * D);
    constexpr int TILES = D >= 64 ? D / 32 : 2;  // of eight columns, a warp
    int group = n_heads / n_kv_heads, kv = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    bool has_columns = D >= 64 || warp % 2 == 0;
    int64_t row = blockIdx.x, kv_at = (int64_t)kv * CHUNK * D;
    int most = Source::TOGETHER && group < 16 ? 16 / group : 1, together = rows_together(seq, pos, row, n_rows, most);
    int32_t n_keys = pos[row] + together, n_segments = (int32_t)ceil_div(n_keys, SEGMENT);
    if (together == 0 || (int32_t)blockIdx.z >= n_segments) return;
    Ring<D> ring = {s_ring, k_pages + kv_at, v_pages + kv_at, (int64_t)n_kv_heads * CHUNK * D,
                    table + (int64_t)seq[row] * max_pages, n_keys, max_pages, n_pages, false};
    int32_t page = Source::TOGETHER ? -1 : page_at(ring.pages, pos[row], max_pages, n_pages);
    for (int first = 0; first < group; first += 16) {
        // Row i of the fragment is head i % heads of row i / heads.
        int heads = min(16, group - first), live = together * heads;
        auto head_row = [&](int i) { return (row + i / heads) * n_heads + kv * group + first + i % heads; };
        int mine[2] = {lane / 4, lane / 4 + 8}, column = warp * (D / 4) + lane % 4 * 2;
        int32_t keys[2] = {pos[row] + 1 + mine[0] / heads, pos[row] + 1 + mine[1] / heads};
        __syncthreads();  // the last heads are done
        bool appends = first == 0 && (n_segments - 1) % (int32_t)gridDim.z == (int32_t)blockIdx.z;
        RowAt at = {row, kv, pos[row], page, n_heads, n_kv_heads, appends};
        // Pages of nothing but old keys may come while the launch before still makes the new one.
        int asked = 0;
#pragma unroll 1
        while (!Source::TOGETHER && asked < RING - 1 && ring.key_of(asked) + CHUNK <= pos[row]) ring.load(asked++);
        await_predecessors();
        source.template stage<D>(s_q, ring.k_of(RING - 1), at, kv * group + first, live, head_row);
#pragma unroll
        for (int j = 0; j < RING - 1; j++) {
            if (j >= asked) ring.load(j);
        }
        Total<TILES> total = {};
        int j = 0;
        for (int32_t segment = blockIdx.z; segment < n_segments; segment += gridDim.z) {
            Softmax softmax;
            softmax.open();
            float acc[TILES][4] = {};
            int32_t end = min(n_keys, (segment + 1) * SEGMENT);
            for (int32_t chunk = segment * SEGMENT; chunk < end; chunk += CHUNK, j++) {
                cp_async_wait<RING - 2>();
                __syncthreads();  // q and this page stand in shared memory, the last page is read
                ring.load(j + RING - 1);
                float s[4][4], rescale[2];
                page_scores<D>(s, s_q, ring.k_of(j), s_s);
                int seen[2] = {keys[0] - chunk, keys[1] - chunk};
                softmax.step(s, seen, scale, rescale);
                rescale_rows(acc, rescale);
                if (has_columns) add_product<D>(acc, s, ring.k_of(j) + CHUNK * D, warp * (D / 4));
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                if (keys[r] <= segment * SEGMENT) continue;  // the row sees nothing of this segment
                if (!leaves_parts(keys[r])) {
                    total.add(r, softmax, acc, segment == 0);
                } else if (mine[r] < live && has_columns && parts.has(segment)) {
                    float* part = parts.of(head_row(mine[r]), segment);
                    store_part(part + 2 + column, acc, r);
                    if (warp == 0 && lane % 4 == 0) part[0] = softmax.max[r], part[1] = ring.or_nan(softmax.sum[r]);
                }
            }
        }
        cp_async_wait<0>();  // nothing is under way when the block ends
#pragma unroll
        for (int r = 0; r < 2; r++) {
            // Block 0 stores rows of one segment, also where the next rows of the group have two.
            if (mine[r] >= live || !has_columns || blockIdx.z > 0 || leaves_parts(keys[r])) continue;
            store_row(o + head_row(mine[r]) * D + column, total.acc, r, 1.0f / ring.or_nan(total.softmax.sum[r]));
        }
    }
    if (!leaves_parts(n_keys) || !parts.all_are_there(n_keys)) return;
    for (int i = 0; i < together; i++) parts.merge(o, row + i, pos[row + i] + 1, n_heads, kv * group, group);
}
