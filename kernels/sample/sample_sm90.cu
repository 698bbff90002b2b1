// sample_sm90     one token a row, as sample: for few rows, each by a cluster of eight blocks
//
// Shapes          as sample.
// Numerics        as sample.
// Parallel        a cluster of 8 blocks a row, 512 threads each. A walk's logits are divided among them, by pieces where their sums
//                 have no order, by spans where they have one, a warp each (sample/wide.cuh); what each has found it gives to all
//                 by their shared memory, and all go on alike. The cluster meets four times where nothing is filtered, twice
//                 more a histogram, three times a sum.
// Cost            as sample, with the row's logits read by eight multiprocessors. Bound by the meetings and by the chain of a
//                 span's sums.
// Sass sm_90a     sample: LDG.E.128 STG.E.128 UCGABAR_ARV UCGABAR_WAIT PREEXIT ACQBULK
// Determinism     as sample, whose bits it has: sums of a span are one thread's chain, whichever block it is in; bins are integers.
// Requires        as sample; sm_90. A grid of 8 N blocks.
// Source          CUDA C++ Programming Guide, thread block clusters, distributed shared memory.
// Oracle          src/ops/sample/oracle.rs
constexpr int BLOCKS = 8;

#include "sample/sample_row.cuh"

extern "C" __global__ void __launch_bounds__(MAX_THREADS) CLUSTER(8)
    sample_sm90(float* logits,                          // [N, V], scaled in place
                const float* __restrict__ temperature,  // [N]
                const int32_t* __restrict__ top_k,      // [N]
                const float* __restrict__ top_p,        // [N]
                const float* __restrict__ min_p,        // [N]
                const uint64_t* __restrict__ key,       // [N, 2]
                const int32_t* __restrict__ pos,        // [N], null where rows has them
                int32_t* rows,                          // [6, N], null where they stay
                int32_t* token,                         // [N]
                float* logprob,                         // [N]
                int32_t vocab,
                int32_t end,        // ids from here on are not drawn
                int32_t vectors,  // rows begin on boundaries of 16 bytes
                int32_t n_seqs) {
#ifdef HAGGLE_SM90
    sample_row(logits, temperature, top_k, top_p, min_p, key, pos, rows, token, logprob, vocab, end, vectors, n_seqs);
#else
    __trap();  // other chips have sample
#endif
}
