// policy_loss     loss = sum_n w (-min(r A, clip(r) A) + kl k3 - c_H H),  r = exp(logprob - old),
//                 k3 = exp(ref - logprob) - (ref - logprob) - 1
//
// Where the clipped side is the smaller one the gradient is 0, else d loss / d logprob = w (-r A + kl (1 - exp(ref - lp)));
// d loss / d H = -w c_H. Other objectives and estimators of the KL as src/ops/loss/mod.rs says.
//
// Shapes          logprob, old, reference, advantage, weight, entropy, dlogprob, dentropy [N] f32
//                 sums [6] f32: loss, pg_loss; kl, entropy, clipped, each token once whatever its weight; ratio_max_dev
// Numerics        f32 a token, sums in f64; NaN comes through. Without kl the reference is not read.
// Parallel        one block: thread t has the tokens t, t + 256, ...
// Cost            reads 24N bytes, writes 8N; some 60 FLOP a token. Latency bound: N is the tokens of a micro-batch.
// Determinism     one order of the sums: lanes, then a tree of halves; the bits of the CPU device.
// Source          Schulman et al. 2017, arXiv:1707.06347, eq. 7; Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4;
//                 Schulman 2020, "Approximating KL divergence"; CISPO: arXiv:2506.13585, eq. 4 and 5; dual clip:
//                 Ye et al. 2020, arXiv:1912.09729, eq. 5.
// Oracle          src/ops/loss/oracle.rs
#include "common/math.cuh"

constexpr int THREADS = 256;
constexpr int SUMS = 6;  // the last is a maximum

// The larger one; NaN wins.
__device__ __forceinline__ double larger(double a, double b) { return b > a || b != b ? b : a; }

constexpr int32_t CISPO = 1;         // objective; else clip
constexpr int32_t K1 = 0, K2 = 1;    // estimator of the KL; else k3

// What a token loses, its slope in the logprob, and whether the clip holds it.
struct Token {
    float loss, slope;
    bool stops;
};

__device__ __forceinline__ Token clip(float r, float a, float low, float high, float dual_clip) {
    if (a < 0.0f && dual_clip > 0.0f && r > dual_clip) return {-dual_clip * a, 0.0f, true};
    // The clipped side is the smaller one: it counts, and its gradient is 0. NaN is neither: it counts as it is.
    bool stops = a > 0.0f ? r > high : a < 0.0f && r < low;
    float bounded = a > 0.0f ? high : low;
    if (stops) return {-bounded * a, 0.0f, true};
    return {-r * a, -r * a, false};
}

// Outside the clip the weight stops, the gradient goes on.
__device__ __forceinline__ Token cispo(float r, float a, float logprob, float low, float high) {
    float bounded = r < low ? low : r;
    bounded = bounded > high ? high : bounded;
    return {-bounded * a * logprob, -bounded * a, bounded != r};
}

// The KL estimate at x = reference - logprob, and its slope in the logprob.
__device__ __forceinline__ float penalty(float x, int32_t estimator, float* slope) {
    if (estimator == K1) {
        *slope = 1.0f;
        return -x;
    }
    if (estimator == K2) {
        *slope = -x;
        return 0.5f * x * x;
    }
    float e = exp_f32(x);
    *slope = 1.0f - e;
    return e - x - 1.0f;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    policy_loss(const float* __restrict__ logprob,    // [N]
                const float* __restrict__ old,        // [N]
                const float* __restrict__ reference,  // [N]
                const float* __restrict__ advantage,  // [N]
                const float* __restrict__ weight,     // [N]
                const float* __restrict__ entropy,    // [N]
                float* dlogprob,                      // [N]
                float* dentropy,                      // [N]
                float* sums,                          // [6]
                int64_t n, float clip_low, float clip_high, float kl_weight, float bonus, float dual_clip,
                int32_t objective, int32_t kl_estimator) {
    __shared__ double s_sum[SUMS][THREADS];
    int t = threadIdx.x;
    float low = 1.0f - clip_low, high = 1.0f + clip_high;
    double s[SUMS] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
    for (int64_t i = t; i < n; i += THREADS) {
        float a = advantage[i], w = weight[i], r = exp_f32(logprob[i] - old[i]);
        Token token = objective == CISPO ? cispo(r, a, logprob[i], low, high) : clip(r, a, low, high, dual_clip);
        float d = token.slope, kl = 0.0f, slope;
        if (kl_weight > 0.0f) {
            kl = penalty(reference[i] - logprob[i], kl_estimator, &slope);
            d += kl_weight * slope;
        }
        dlogprob[i] = w * d;
        dentropy[i] = -w * bonus;
        double wide = w, h = entropy[i];
        s[0] += wide * ((double)token.loss + (double)kl_weight * (double)kl - (double)bonus * h);
        s[1] += wide * (double)token.loss;
        s[2] += (double)kl;
        s[3] += h;
        s[4] += token.stops ? 1.0 : 0.0;
        s[5] = larger(s[5], fabs((double)r - 1.0));
    }
    for (int c = 0; c < SUMS; c++) s_sum[c][t] = s[c];
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();  // s_sum holds the sums of twice as many lanes
        if (t < half) {
            for (int c = 0; c < SUMS - 1; c++) s_sum[c][t] += s_sum[c][t + half];
            s_sum[SUMS - 1][t] = larger(s_sum[SUMS - 1][t], s_sum[SUMS - 1][t + half]);
        }
    }
    if (t == 0) {
        for (int c = 0; c < SUMS; c++) sums[c] = (float)s_sum[c][0];
    }
}
