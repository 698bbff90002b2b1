// attn_bwd_dq_sm90    dq = ds k on Hopper's copy engine and wgmma: the twin of attn_bwd_dq_bf16
//                     ds = p (dp - delta) scale,  p = exp(scale q k - lse),  dp = do v,  delta = sum_d o do
//
// Shapes          do, q, o, dq [N, H, D], k, v [N, Hk, D] bf16, do, q, k, v by tensor maps (D, heads, N) with boxes of
//                 64 x 1 x 64   lse [N, H] f32   cu_seqlens [B + 1] i32; D of 64, 128
// Numerics        scores are computed again from q, k and lse, wgmma m64n64k16 over D into f32; ds rounded to bf16 for
//                 ds k alone, wgmma m64nDk16 over the keys in ascending order.
// Parallel        tiles of 128 queries of one head: two warpgroups of 64; a third has one thread that copies 64 keys at
//                 a time into a ring of four stages.
// Cost            as attn_bwd_dq_bf16.
// Determinism     as attn_bwd_dq_bf16; on the emulator its bits.
// Requires        N > 0, do, q, k, v, o on 16 bytes; sm_90a.
// Sass            sm90: HGMMA.64x64x16.F32.BF16 UTMALDG.3D SYNCS.PHASECHK USETMAXREG
// Sass            d128: HGMMA.64x128x16.F32.BF16
// Source          Dao et al. 2022, arXiv:2205.14135, appendix B; Shah et al. 2024, arXiv:2407.08608, sec. 3.1.
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_sm90.cuh"
#include "common/shared.cuh"

#ifdef HAGGLE_SM90

template <int D>
__device__ __forceinline__ void attn_bwd_dq_sm90(const TensorMap& d_o,              // [N, H, D]
                                                 const TensorMap& q,                // [N, H, D]
                                                 const TensorMap& k,                // [N, Hk, D]
                                                 const TensorMap& v,                // [N, Hk, D]
                                                 const bf16* __restrict__ d_o_rows,  // [N, H, D]: do
                                                 const bf16* __restrict__ o,        // [N, H, D]
                                                 const float* __restrict__ lse,     // [N, H]
                                                 const int32_t* __restrict__ cu,    // [B + 1]
                                                 bf16* __restrict__ dq,             // [N, H, D], =
                                                 int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, float scale) {
    SHARED_DYNAMIC(bf16, s_dynamic);
    __shared__ uint64_t s_full[STAGES];
    __shared__ uint64_t s_empty[STAGES];
    __shared__ uint64_t s_q_full[1];
    __shared__ uint64_t s_clear[1];
    bf16* s_q = align_1024(s_dynamic);  // [2]: each warpgroup's q, do
    bf16* s_ring = s_q + 4 * BOX<D>;    // [STAGES]: k, v
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
        int32_t row = (int32_t)at.start + at.tile;
        mbarrier_arrive_expect_tx(s_q_full, 2 * live * BOX<D> * sizeof(bf16));
        for (int w = 0; w < live; w++) {
            load_box<D>(s_q + 2 * w * BOX<D>, q, s_q_full, head, row + w * LINES);
            load_box<D>(s_q + (2 * w + 1) * BOX<D>, d_o, s_q_full, head, row + w * LINES);
        }
        load_keys<D>(s_ring, s_full, s_empty, k, v, kv, (int32_t)at.start, at.tile / LINES + live);
        return;
    }
    setmaxnreg_inc<232>();
    if (warpgroup >= live) return;
    int lane = threadIdx.x % 32, query = threadIdx.x / 32 % 4 * 16 + lane / 4;
    int32_t tile = at.tile + warpgroup * LINES;
    int rows = min(LINES, at.rows - warpgroup * LINES), boxes = tile / LINES + 1;
    const bf16 *s_q_mine = s_q + 2 * warpgroup * BOX<D>, *s_do_mine = s_q_mine + BOX<D>;
    float row_lse[2], delta[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        bool is_row = query + 8 * r < rows;
        int64_t row = (at.start + tile + (is_row ? query + 8 * r : 0)) * n_heads + head;
        delta[r] = row_delta<D>(o + row * D, d_o_rows + row * D, is_row);
        row_lse[r] = is_row ? lse[row] : 0.0f;
    }
    mbarrier_wait(s_q_full, 0);
    float acc[D / 8][4] = {};
    for (int box = 0; box < boxes; box++) {
        int stage = box % STAGES, phase = box / STAGES % 2;
        bf16 *s_k = s_ring + stage * 2 * BOX<D>, *s_v = s_k + BOX<D>;
        mbarrier_wait(&s_full[stage], phase);
        // Only a sequence's last box lacks keys, and only the warpgroup of its last queries reads it.
        if (box == boxes - 1 && rows < LINES) clear_keys<D>(s_k, rows, s_clear);
        float s[8][4], dp[8][4];
        wgmma_fence();
        dot_boxes<D>(s, s_q_mine, s_k);
        dot_boxes<D>(dp, s_do_mine, s_v);
        wgmma_commit_group();
        wgmma_wait_group<0>();
        pin(s);
        pin(dp);
        uint32_t ds[2][2][4];
#pragma unroll
        for (int c = 0; c < 2; c++) {
#pragma unroll
            for (int j = 4 * c; j < 4 * c + 4; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int r = e / 2, key = box * LINES + j * 8 + lane % 4 * 2 + e % 2;
                    bool seen = query + 8 * r < rows && key <= tile + query + 8 * r;
                    float p = seen ? exp_log_prob_f32(s[j][e] * scale - row_lse[r]) : 0.0f;
                    s[j][e] = p * (dp[j][e] - delta[r]) * scale;
                }
            }
            pack_chunk(ds[c], chunk_of(s, c));
            pin(ds[c]);
        }
        uint64_t keys = transposed_box(s_k);
        wgmma_fence();
        add_chunk<D>(acc, ds[0], keys);
        wgmma_commit_group();
        if (box * LINES + CHUNK < tile + rows) {
            wgmma_fence();
            add_chunk<D>(acc, ds[1], keys + CHUNK_STEP);
            wgmma_commit_group();
        }
        wgmma_wait_group<0>();
        pin(acc);
        if (lane == 0) mbarrier_arrive(&s_empty[stage]);  // this warp has read it
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int64_t row = (at.start + tile + query + 8 * r) * n_heads + head;
        if (query + 8 * r < rows) store_row(dq + row * D + lane % 4 * 2, acc, r, 1.0f);
    }
}

#endif

extern "C" __global__ void __launch_bounds__(384, 1)
    attn_bwd_dq_sm90_bf16_d64(const __grid_constant__ TensorMap d_o, const __grid_constant__ TensorMap q,
                              const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
                              const bf16* __restrict__ d_o_rows, const bf16* __restrict__ o,
                              const float* __restrict__ lse, const int32_t* __restrict__ cu, bf16* __restrict__ dq,
                              int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, float scale) {
#ifdef HAGGLE_SM90
    attn_bwd_dq_sm90<64>(d_o, q, k, v, d_o_rows, o, lse, cu, dq, n_seqs, n_heads, n_kv_heads, scale);
#else
    __trap();  // other chips have attn_bwd_dq_bf16_d64
#endif
}

extern "C" __global__ void __launch_bounds__(384, 1)
    attn_bwd_dq_sm90_bf16_d128(const __grid_constant__ TensorMap d_o, const __grid_constant__ TensorMap q,
                               const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
                               const bf16* __restrict__ d_o_rows, const bf16* __restrict__ o,
                               const float* __restrict__ lse, const int32_t* __restrict__ cu, bf16* __restrict__ dq,
                               int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, float scale) {
#ifdef HAGGLE_SM90
    attn_bwd_dq_sm90<128>(d_o, q, k, v, d_o_rows, o, lse, cu, dq, n_seqs, n_heads, n_kv_heads, scale);
#else
    __trap();  // other chips have attn_bwd_dq_bf16_d128
#endif
}
