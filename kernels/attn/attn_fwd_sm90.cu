// attn_fwd_sm90   o = softmax(scale q k^T) v on Hopper's copy engine and wgmma: the twin of attn_fwd_bf16
//
// Shapes          q, o [N, H, D], k, v [N, Hk, D] bf16, q, k, v by tensor maps (D, heads, N) with boxes of 64 x 1 x 64
//                 cu_seqlens [B + 1] i32   lse [N, H] f32, all packed; D of 64, 128
// Numerics        scores in f32, wgmma m64n64k16 over D; online softmax over chunks of 32 keys, segments of 512 merged in
//                 order; probabilities rounded to bf16 for p v alone, wgmma m64nDk16 over the chunk's keys.
// Parallel        tiles of 128 queries of one head: two warpgroups of 64, their q in registers; a third has one thread
//                 that copies 64 keys at a time into a ring of four stages. One warpgroup multiplies while the other
//                 takes its softmax.
// Cost            as attn_fwd.
// Determinism     as attn_fwd; on the emulator its bits.
// Requires        N > 0, q, k, v on 16 bytes; sm_90a.
// Sass            sm90: HGMMA.64x64x16.F32.BF16 UTMALDG.3D SYNCS.PHASECHK USETMAXREG
// Sass            d128: HGMMA.64x128x16.F32.BF16
// Source          Shah et al. 2024, arXiv:2407.08608, sec. 3.1, 3.2, but with the chunks of attn_fwd.
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_sm90.cuh"
#include "common/shared.cuh"

#ifdef HAGGLE_SM90

template <int D>
__device__ __forceinline__ void attn_fwd_sm90(const TensorMap& q,              // [N, H, D]
                                              const TensorMap& k,              // [N, Hk, D]
                                              const TensorMap& v,              // [N, Hk, D]
                                              const int32_t* __restrict__ cu,  // [B + 1]
                                              bf16* __restrict__ o,            // [N, H, D]
                                              float* __restrict__ lse,         // [N, H]
                                              int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, float scale) {
    SHARED_DYNAMIC(bf16, s_dynamic);
    __shared__ uint64_t s_full[STAGES];
    __shared__ uint64_t s_empty[STAGES];
    __shared__ uint64_t s_q_full[1];
    __shared__ uint64_t s_clear[1];
    bf16* s_q = align_1024(s_dynamic);  // [2]: each warpgroup's
    bf16* s_ring = s_q + 2 * BOX<D>;    // [STAGES]: k, v
    int head = blockIdx.y, kv = head / (n_heads / n_kv_heads), warpgroup = warpgroup_of_thread();
    Tile at = tile_at<2 * LINES>(cu, nullptr, n_seqs, blockIdx.x);
    if (at.rows == 0) return;
    int live = at.rows > LINES ? 2 : 1;  // warpgroups that have queries
    if (threadIdx.x == 0) {
        init_ring(s_full, s_empty, 4 * live);
        mbarrier_init(s_q_full, 1);
        mbarrier_init(s_clear, 128);
        fence_mbarrier_init();
    }
    __syncthreads();  // the mbarriers are there
    if (warpgroup == 2) {
        setmaxnreg_dec<40>();
        if (threadIdx.x != 256) return;
        int32_t start = (int32_t)at.start;
        mbarrier_arrive_expect_tx(s_q_full, live * BOX<D> * sizeof(bf16));
        for (int w = 0; w < live; w++) load_box<D>(s_q + w * BOX<D>, q, s_q_full, head, start + at.tile + w * LINES);
        load_keys<D>(s_ring, s_full, s_empty, k, v, kv, start, at.tile / LINES + live);
        return;
    }
    setmaxnreg_inc<232>();
    if (warpgroup >= live) return;
    int32_t tile = at.tile + warpgroup * LINES;
    int rows = min(LINES, at.rows - warpgroup * LINES), boxes = tile / LINES + 1;
    int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 % 4 * 16, query = row0 + lane / 4;
    uint32_t frag[D / 16][4];
    mbarrier_wait(s_q_full, 0);
#pragma unroll
    for (int i = 0; i < D / 16; i++) frag_a<8>(frag[i], s_q + warpgroup * BOX<D> + i / 4 * PANEL, row0, i % 4 * 16);

    Total<D / 8> total = {};
    for (int first = 0; first < boxes; first += SEGMENT / LINES) {
        Softmax softmax;
        softmax.open();
        float acc[D / 8][4] = {};
        int end = min(boxes, first + SEGMENT / LINES);
        for (int box = first; box < end; box++) {
            int stage = box % STAGES, phase = box / STAGES % 2;
            bf16* s_k = s_ring + stage * 2 * BOX<D>;
            mbarrier_wait(&s_full[stage], phase);
            // Only a sequence's last box lacks keys, and only the warpgroup of its last queries reads it.
            if (box == boxes - 1 && rows < LINES) clear_keys<D>(s_k, rows, s_clear);
            uint64_t keys = matrix_descriptor(s_k), values = transposed_box(s_k + BOX<D>);
            float s[8][4];
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < D / 16; i++) wgmma_k16_bf16<64, false>(s, frag[i], keys + along<D>(i), i > 0);
            wgmma_commit_group();
            wgmma_wait_group<0>();
            pin(s);
#pragma unroll
            for (int c = 0; c < 2; c++) {
                int chunk = box * LINES + c * CHUNK;
                if (chunk >= tile + rows) break;
                int seen[2] = {tile + query + 1 - chunk, tile + query + 9 - chunk};
                float rescale[2];
                uint32_t p[2][4];
                softmax.step(chunk_of(s, c), seen, scale, rescale);
                if (c == 1) wgmma_wait_group<0>();  // the first chunk's values are added
                pin(acc);
                pin(chunk_of(s, c));  // operands in registers may not be made while another product runs
                pack_chunk(p, chunk_of(s, c));
                rescale_rows(acc, rescale);
                wgmma_fence();
                add_chunk<D>(acc, p, values + c * CHUNK_STEP);
                wgmma_commit_group();
            }
            wgmma_wait_group<0>();
            pin(acc);
            if (lane == 0) mbarrier_arrive(&s_empty[stage]);  // this warp has read it
        }
        // A warpgroup's rows lie in one segment, so each sees keys of it and of all before it.
#pragma unroll
        for (int r = 0; r < 2; r++) total.add(r, softmax, acc, first == 0);
    }
    int64_t row = at.start + tile;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int at_row = query + 8 * r;
        if (at_row >= rows) continue;
        int64_t to = (row + at_row) * n_heads + head;
        const Softmax& softmax = total.softmax;
        store_row(o + to * D + lane % 4 * 2, total.acc, r, 1.0f / softmax.sum[r]);
        if (lane % 4 == 0) lse[to] = softmax.lse(r);
    }
}

#endif

extern "C" __global__ void __launch_bounds__(384, 1)
    attn_fwd_sm90_bf16_d64(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
                           const __grid_constant__ TensorMap v, const int32_t* __restrict__ cu, bf16* __restrict__ o,
                           float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, float scale) {
#ifdef HAGGLE_SM90
    attn_fwd_sm90<64>(q, k, v, cu, o, lse, n_seqs, n_heads, n_kv_heads, scale);
#else
    __trap();  // other chips have attn_fwd_bf16_d64
#endif
}

extern "C" __global__ void __launch_bounds__(384, 1)
    attn_fwd_sm90_bf16_d128(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
                            const __grid_constant__ TensorMap v, const int32_t* __restrict__ cu, bf16* __restrict__ o,
                            float* __restrict__ lse, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, float scale) {
#ifdef HAGGLE_SM90
    attn_fwd_sm90<128>(q, k, v, cu, o, lse, n_seqs, n_heads, n_kv_heads, scale);
#else
    __trap();  // other chips have attn_fwd_bf16_d128
#endif
}
