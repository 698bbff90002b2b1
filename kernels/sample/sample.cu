// sample          one token a row by inverse CDF, and its log-probability under the whole softmax; in decode the next step's
//                 rows too: ids = token, positions + 1
//
// Shapes          logits [N, V] f32, scaled in place   temperature, top_p, min_p [N] f32   top_k [N] i32
//                 key [N, 2] u64: seed, stream   token [N] i32   logprob [N] f32   where rows stand, either of: pos [N] i32;
//                 rows [6, N] i32 of a decode step: ids, positions, seq, logit rows, their positions, their seq
// Numerics        f32. Likelier is a higher scaled logit, or among equals a lower id. top-k keeps the first k of that
//                 order, top-p its shortest beginning whose probability reaches top_p, min-p what has min_p times the
//                 probability of the likeliest; all judge the whole softmax, what passes all is drawn in proportion.
//                 Nothing is sorted: sample/filter.cuh finds where a beginning ends, sample/draw.cuh the token. The noise is
//                 that of (seed, stream, pos + 1), the position of the token that is drawn.
// Parallel        one block a row, 16 logits a thread, at most 512 threads: four of them a piece of 256 logits, then a span
//                 of 2048, 16 bytes each where rows allow it.
// Cost            reads 12 V bytes, writes 4V a row (all but the first 4V from cache), of a decode step 12 and 12 more. top-k and
//                 top-p: three or four walks for a histogram each and one for sums, up to four where top-p is near 1, over the
//                 pieces alone that reach where the beginning may end, which is known beforehand: by the largest of each piece,
//                 or by what top-p may leave out. Bound by instructions where one row has the card: two exponentials a logit on
//                 one multiprocessor.
// Sass            sample: LDG.E.128 STG.E.128
// Sass sm_90a     sample: PREEXIT ACQBULK
// Determinism     one order of every sum (common/softmax.cuh), counter-based noise: the decisions of the CPU device, and
//                 logprobs with the bits of linear_logprob_fwd. A row's bits depend on that row alone: a block reads and writes
//                 its own column of rows, whose position all its threads have read before the first barrier.
// Requires        V < 2^26. Of a decode step row i samples from row i; rows of a sequence n_seqs or above are padding and stay.
// Source          Salmon et al. 2011 (noise); Holtzman et al. 2019, arXiv:1904.09751 (top-p); arXiv:2407.01082 (min-p).
// Oracle          src/ops/sample/oracle.rs
constexpr int BLOCKS = 1;

#include "sample/sample_row.cuh"

extern "C" __global__ void __launch_bounds__(MAX_THREADS)
    sample(float* logits,                          // [N, V], scaled in place
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
    sample_row(logits, temperature, top_k, top_p, min_p, key, pos, rows, token, logprob, vocab, end, vectors, n_seqs);
}
