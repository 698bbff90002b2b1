// The gradient of a logit, which linear_logprob_bwd and its twin on Hopper share.
#pragma once

#include "common/math.cuh"

// What a row's gradients are made of; see logprob/linear_logprob_bwd.cu for the derivatives.
struct LogitGradient {
    float dlogprob, dentropy, lse, entropy, inv_temperature;

    // Of raw logit z; `hit`: it is the target's.
    __device__ __forceinline__ float of(float z, bool hit) const {
        float log_p = z * inv_temperature - lse;
        float g = -inv_temperature * exp_log_prob_f32(log_p) * fmaf(dentropy, log_p + entropy, dlogprob);
        return hit ? g + inv_temperature * dlogprob : g;
    }
};
