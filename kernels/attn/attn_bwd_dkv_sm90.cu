// attn_bwd_dkv_sm90   dk = ds^T q, dv = p^T do on Hopper's copy engine and wgmma: the twin of attn_bwd_dkv_bf16
//                     ds = p (dp - delta) scale,  p = exp(scale q k - lse),  dp = do v,  delta = sum_d o do
//
// Shapes          do, q, o [N, H, D], k, v, dk, dv [N, Hk, D] bf16, do, q, k, v by tensor maps (D, heads, N) with boxes
//                 of 64 x 1 x 32 of do and q, of 64 x 1 x 64 of k and v   lse [N, H] f32   cu_seqlens [B + 1] i32;
//                 D of 64, 128
// Numerics        scores are computed again from q, k and lse, wgmma m64n64k16 over D into f32; p and ds rounded to
//                 bf16 for the products with do and q alone, wgmma m64nDk16.
// Parallel        tiles of 128 keys of one kv head: two warpgroups of 64. In a third one thread copies two steps of 32
//                 queries of a head at a time into a ring of four stages, and three warps stage lse and delta.
// Cost            as attn_bwd_dkv_bf16.
// Determinism     as attn_bwd_dkv_bf16: no atomics; queries ascending by 32, of these heads of the group ascending. On the
//                 emulator its bits.
// Requires        N > 0, do, q, k, v, o on 16 bytes; sm_90a.
// Sass            sm90: HGMMA.64x64x16.F32.BF16 UTMALDG.3D SYNCS.PHASECHK USETMAXREG
// Sass            d128: HGMMA.64x128x16.F32.BF16
// Source          Dao et al. 2022, arXiv:2205.14135, appendix B; Shah et al. 2024, arXiv:2407.08608, sec. 3.1.
// Oracle          src/ops/attn/oracle.rs
#include "common/attn_sm90.cuh"
#include "common/shared.cuh"

#ifdef HAGGLE_SM90

constexpr int STAGERS = 96;  // threads that stage lse and delta

// Where the steps of a block lie: step i is head i % group of the queries i / group * 32 .. from token `start` on, the
// block's first key; `len` tokens of the sequence are left there. A box has two steps; past the last are no queries.
struct Steps {
    int32_t start, len;
    int first_head, group, n_heads;

    __device__ __forceinline__ int head(int step) const { return first_head + step % group; }
    __device__ __forceinline__ int query(int step) const { return step / group * CHUNK; }
    __device__ __forceinline__ int count() const { return (len + CHUNK - 1) / CHUNK * group; }
    __device__ __forceinline__ int boxes() const { return (count() + 1) / 2; }
};

// One thread: q and do of all steps through the ring.
template <int D>
__device__ __forceinline__ void load_queries(bf16* s_ring, uint64_t* s_full, uint64_t* s_empty, const TensorMap& q,
                                             const TensorMap& d_o, const Steps& steps) {
    for (int box = 0; box < steps.boxes(); box++) {
        int stage = box % STAGES, phase = box / STAGES % 2;
        mbarrier_wait(&s_empty[stage], phase ^ 1);  // all warps have read what stood here
        mbarrier_arrive_expect_tx(&s_full[stage], 2 * BOX<D> * sizeof(bf16));
        for (int half = 0; half < 2; half++) {
            int step = 2 * box + half, head = steps.head(step);
            int32_t row = steps.start + steps.query(step);
            bf16* s_q = s_ring + stage * 2 * BOX<D> + half * CHUNK * 64;
            load_box<D>(s_q, q, &s_full[stage], head, row);
            load_box<D>(s_q + BOX<D>, d_o, &s_full[stage], head, row);
        }
    }
}

// STAGERS threads: lse and delta of the lines of all boxes, and zeros in lines past the sequence's end.
template <int D>
__device__ __forceinline__ void stage_rows(bf16* s_ring, uint64_t* s_full, uint64_t* s_ready, float* s_lse,
                                           float* s_delta, const bf16* __restrict__ d_o, const bf16* __restrict__ o,
                                           const float* __restrict__ lse, int thread, const Steps& steps) {
    for (int box = 0; box < steps.boxes(); box++) {
        int stage = box % STAGES, phase = box / STAGES % 2;
        mbarrier_wait(&s_full[stage], phase);  // q and do are there; all warps have read what stood here
#pragma unroll 1
        for (int first = 0; first < LINES; first += STAGERS / 4) {
            int line = first + thread / 4, step = 2 * box + line / CHUNK, query = steps.query(step) + line % CHUNK;
            bool is_row = line < LINES && query < steps.len;
            int64_t row = (int64_t)(steps.start + (is_row ? query : 0)) * steps.n_heads + steps.head(step);
            const bf16 *o_row = o + row * D, *do_row = d_o + row * D;
            float delta = 0.0f;  // as row_delta, with fewer registers
#pragma unroll 1
            for (int d = thread % 4 * 8; d < D && is_row; d += 32) delta = add_delta(delta, o_row + d, do_row + d);
            delta = lanes_sum<4>(delta);
            if (thread % 4 == 0 && line < LINES) {
                s_lse[stage * LINES + line] = is_row ? lse[row] : 0.0f;
                s_delta[stage * LINES + line] = delta;
            }
        }
#pragma unroll 1
        for (int half = 0; half < 2; half++) {
            int first = max(0, min(CHUNK, steps.len - steps.query(2 * box + half)));
            bf16* s_q = s_ring + stage * 2 * BOX<D> + half * CHUNK * 64;
            clear_lines<D>(s_q, first, CHUNK, thread, STAGERS);
            clear_lines<D>(s_q + BOX<D>, first, CHUNK, thread, STAGERS);
        }
        fence_proxy_async();
        mbarrier_arrive(&s_ready[stage]);
    }
}

template <int D>
__device__ __forceinline__ void attn_bwd_dkv_sm90(const TensorMap& d_o,              // [N, H, D]
                                                  const TensorMap& q,                // [N, H, D]
                                                  const TensorMap& k,                // [N, Hk, D]
                                                  const TensorMap& v,                // [N, Hk, D]
                                                  const bf16* __restrict__ d_o_rows,  // [N, H, D]: do
                                                  const bf16* __restrict__ o,        // [N, H, D]
                                                  const float* __restrict__ lse,     // [N, H]
                                                  const int32_t* __restrict__ cu,    // [B + 1]
                                                  bf16* __restrict__ dk,             // [N, Hk, D], =
                                                  bf16* __restrict__ dv,             // [N, Hk, D], =
                                                  int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads, float scale) {
    SHARED_DYNAMIC(bf16, s_dynamic);
    __shared__ float s_lse[STAGES * LINES];
    __shared__ float s_delta[STAGES * LINES];
    __shared__ uint64_t s_full[STAGES];
    __shared__ uint64_t s_empty[STAGES];
    __shared__ uint64_t s_ready[STAGES];
    __shared__ uint64_t s_keys_full[1];
    bf16* s_keys = align_1024(s_dynamic);  // [2]: each warpgroup's k, v
    bf16* s_ring = s_keys + 4 * BOX<D>;    // [STAGES]: q, do
    int kv = blockIdx.y, group = n_heads / n_kv_heads, warpgroup = warpgroup_of_thread();
    Tile at = tile_at<2 * LINES>(cu, nullptr, n_seqs, blockIdx.x);
    if (at.rows == 0) return;
    int live = at.rows > LINES ? 2 : 1;  // warpgroups that have keys
    Steps steps = {(int32_t)at.start + at.tile, at.len - at.tile, kv * group, group, n_heads};
    if (threadIdx.x == 0) {
        init_ring(s_full, s_empty, 4 * live);
        for (int stage = 0; stage < STAGES; stage++) mbarrier_init(&s_ready[stage], STAGERS);
        mbarrier_init(s_keys_full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();  // the mbarriers are there
    if (warpgroup == 2) {
        setmaxnreg_dec<40>();
        if (threadIdx.x >= 288) {
            stage_rows<D>(s_ring, s_full, s_ready, s_lse, s_delta, d_o_rows, o, lse, threadIdx.x - 288, steps);
        } else if (threadIdx.x == 256) {
            mbarrier_arrive_expect_tx(s_keys_full, 2 * live * BOX<D> * sizeof(bf16));
            for (int w = 0; w < live; w++) {
                load_box<D>(s_keys + 2 * w * BOX<D>, k, s_keys_full, kv, steps.start + w * LINES);
                load_box<D>(s_keys + (2 * w + 1) * BOX<D>, v, s_keys_full, kv, steps.start + w * LINES);
            }
            load_queries<D>(s_ring, s_full, s_empty, q, d_o, steps);
        }
        return;
    }
    setmaxnreg_inc<232>();
    if (warpgroup >= live) return;
    int lane = threadIdx.x % 32, key = warpgroup * LINES + threadIdx.x / 32 % 4 * 16 + lane / 4;
    const bf16 *s_k = s_keys + 2 * warpgroup * BOX<D>, *s_v = s_k + BOX<D>;
    // The first queries see the first warpgroup's keys alone.
    for (int box = 0; box < warpgroup * group; box++) {
        mbarrier_wait(&s_full[box % STAGES], box / STAGES % 2);
        if (lane == 0) mbarrier_arrive(&s_empty[box % STAGES]);
    }
    mbarrier_wait(s_keys_full, 0);
    float acc_k[D / 8][4] = {}, acc_v[D / 8][4] = {};
    for (int box = warpgroup * group; box < steps.boxes(); box++) {
        int stage = box % STAGES, phase = box / STAGES % 2;
        const bf16 *s_q = s_ring + stage * 2 * BOX<D>, *s_do = s_q + BOX<D>;
        mbarrier_wait(&s_full[stage], phase);
        mbarrier_wait(&s_ready[stage], phase);
        float p[8][4], ds[8][4];
        wgmma_fence();
        dot_boxes<D>(p, s_k, s_q);
        dot_boxes<D>(ds, s_v, s_do);
        wgmma_commit_group();
        wgmma_wait_group<0>();
        pin(p);
        pin(ds);
        uint32_t p_frag[2][2][4], ds_frag[2][2][4];
#pragma unroll
        for (int c = 0; c < 2; c++) {
            int first = steps.query(2 * box + c);
#pragma unroll
            for (int j = 4 * c; j < 4 * c + 4; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int line = j * 8 + lane % 4 * 2 + e % 2, query = first + line % CHUNK;
                    bool seen = query < steps.len && key + e / 2 * 8 <= query;
                    p[j][e] = seen ? exp_log_prob_f32(p[j][e] * scale - s_lse[stage * LINES + line]) : 0.0f;
                    ds[j][e] = p[j][e] * (ds[j][e] - s_delta[stage * LINES + line]) * scale;
                }
            }
            pack_chunk(p_frag[c], chunk_of(p, c));
            pack_chunk(ds_frag[c], chunk_of(ds, c));
            pin(p_frag[c]);
            pin(ds_frag[c]);
        }
        uint64_t queries = transposed_box(s_q), outputs = transposed_box(s_do);
        wgmma_fence();
        add_chunk<D>(acc_v, p_frag[0], outputs);
        add_chunk<D>(acc_k, ds_frag[0], queries);
        wgmma_commit_group();
        if (2 * box + 1 < steps.count()) {
            wgmma_fence();
            add_chunk<D>(acc_v, p_frag[1], outputs + CHUNK_STEP);
            add_chunk<D>(acc_k, ds_frag[1], queries + CHUNK_STEP);
            wgmma_commit_group();
        }
        wgmma_wait_group<0>();
        pin(acc_v);
        pin(acc_k);
        if (lane == 0) mbarrier_arrive(&s_empty[stage]);  // this warp has read it
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (key + 8 * r >= at.rows) continue;
        int64_t to = ((int64_t)(steps.start + key + 8 * r) * n_kv_heads + kv) * D + lane % 4 * 2;
        store_row(dk + to, acc_k, r, 1.0f);
        store_row(dv + to, acc_v, r, 1.0f);
    }
}

#endif

extern "C" __global__ void __launch_bounds__(384, 1)
    attn_bwd_dkv_sm90_bf16_d64(const __grid_constant__ TensorMap d_o, const __grid_constant__ TensorMap q,
                               const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
                               const bf16* __restrict__ d_o_rows, const bf16* __restrict__ o,
                               const float* __restrict__ lse, const int32_t* __restrict__ cu, bf16* __restrict__ dk,
                               bf16* __restrict__ dv, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads,
                               float scale) {
#ifdef HAGGLE_SM90
    attn_bwd_dkv_sm90<64>(d_o, q, k, v, d_o_rows, o, lse, cu, dk, dv, n_seqs, n_heads, n_kv_heads, scale);
#else
    __trap();  // other chips have attn_bwd_dkv_bf16_d64
#endif
}

extern "C" __global__ void __launch_bounds__(384, 1)
    attn_bwd_dkv_sm90_bf16_d128(const __grid_constant__ TensorMap d_o, const __grid_constant__ TensorMap q,
                                const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
                                const bf16* __restrict__ d_o_rows, const bf16* __restrict__ o,
                                const float* __restrict__ lse, const int32_t* __restrict__ cu, bf16* __restrict__ dk,
                                bf16* __restrict__ dv, int32_t n_seqs, int32_t n_heads, int32_t n_kv_heads,
                                float scale) {
#ifdef HAGGLE_SM90
    attn_bwd_dkv_sm90<128>(d_o, q, k, v, d_o_rows, o, lse, cu, dk, dv, n_seqs, n_heads, n_kv_heads, scale);
#else
    __trap();  // other chips have attn_bwd_dkv_bf16_d128
#endif
}
