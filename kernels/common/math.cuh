// Elementary functions in plain arithmetic: every step is one correctly rounded operation, and every fused
// multiply-add is written as one. So a kernel has the same bits on a GPU and compiled by the host compiler, and
// exp_f32 has those of the CPU device (src/device/cpu/math.rs). Built with -fmad=false: nothing fuses unasked.
#pragma once

#include "common/ptx.cuh"

constexpr float NEG_INF = -__builtin_huge_valf();

// e^x of a logarithm of a probability, which is not above 0, or by rounding alone: the bits of exp_f32 for all x up to 89, with
// an instruction less, in loops that are as fast as they issue.
// x = n ln 2 + r, |r| <= ln 2 / 2; a polynomial of degree 6 gives 2 e^r (Cephes expf, doubled), the exponent
// field of a float gives 2^(n - 1).
__device__ __forceinline__ float exp_log_prob_f32(float x) {
    const float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    x = max_nan_f32(x, -87.5f);       // not fmaxf: NaN must stay
    float t = fmaf(x, 1.44269504088896340736f, ROUND);
    float n = t - ROUND;
    float r = fmaf(n, -0.6933594f, x);
    r = fmaf(n, 2.1219444e-4f, r);
    float p = fmaf(3.9751383e-4f, r, 2.7963999e-3f);
    p = fmaf(p, r, 1.6666904e-2f);
    p = fmaf(p, r, 8.333159e-2f);
    p = fmaf(p, r, 3.333333e-1f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 2.0f);
    p = fmaf(p, r, 2.0f);
    return p * __uint_as_float((__float_as_uint(t) << 23) + (126u << 23));
}

// e^x, error below 1.1 ulp. Results under 2^-125.5 are 0; NaN stays NaN.
__device__ __forceinline__ float exp_f32(float x) { return exp_log_prob_f32(min_nan_f32(x, 89.0f)); }

// 2^x of the base-2 logarithm of a probability, which is not above 0, or by rounding alone, for x up to 127: what attention takes
// in bf16, where scores are multiplied by log2 e in the product that they need anyway. Relative error below 1.7e-7; 2^0 is 1 to the
// bit, what is below 2^-126.5 is 0, NaN stays NaN.
// x = n + f, |f| <= 1/2, exactly; a polynomial of degree 5 gives 2^f (minimax with p(0) = 1), the exponent field of a float 2^n.
__device__ __forceinline__ float exp2_log_prob_f32(float x) {
    const float ROUND = 12582912.0f;
    x = max_nan_f32(x, -127.0f);
    float t = x + ROUND;
    float f = x - (t - ROUND);
    float p = fmaf(1.32647273e-3f, f, 9.67151299e-3f);
    p = fmaf(p, f, 5.55073358e-2f);
    p = fmaf(p, f, 2.40222424e-1f);
    p = fmaf(p, f, 6.93147004e-1f);
    p = fmaf(p, f, 1.0f);
    return p * __uint_as_float((__float_as_uint(t) << 23) + (127u << 23));
}

// Natural logarithm, error below 1 ulp for normal x; log 0 = -inf, NaN below 0.
// x = 2^e m, m in [sqrt(1/2), sqrt(2)); a polynomial of degree 9 in m - 1 (Cephes logf).
__device__ __forceinline__ float log_f32(float x) {
    if (!(x > 0.0f)) return x == 0.0f ? NEG_INF : __uint_as_float(0x7fc00000u);
    if (x == -NEG_INF) return x;
    float e = 0.0f;
    if (x < 1.17549435e-38f) {  // subnormal: into the normal range first
        x *= 8388608.0f;
        e = -23.0f;
    }
    unsigned bits = __float_as_uint(x);
    unsigned above = bits - 0x3f3504f3u;  // bits of sqrt(1/2)
    e += (float)((int)above >> 23);
    float f = __uint_as_float((above & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    float z = f * f;
    float p = fmaf(7.0376836292e-2f, f, -1.1514610310e-1f);
    p = fmaf(p, f, 1.1676998740e-1f);
    p = fmaf(p, f, -1.2420140846e-1f);
    p = fmaf(p, f, 1.4249322787e-1f);
    p = fmaf(p, f, -1.6668057665e-1f);
    p = fmaf(p, f, 2.0000714765e-1f);
    p = fmaf(p, f, -2.4999993993e-1f);
    p = fmaf(p, f, 3.3333331174e-1f);
    p = p * f * z;
    p = fmaf(e, -2.12194440e-4f, p);
    p = fmaf(z, -0.5f, p);
    return fmaf(e, 0.693359375f, f + p);
}

// 1 / sqrt(x): two correctly rounded operations.
__device__ __forceinline__ float rsqrt_f32(float x) { return 1.0f / sqrtf(x); }

// silu(gate) up,   silu(g) = g / (1 + e^-g)
__device__ __forceinline__ float swiglu_f32(float gate, float up) { return gate / (1.0f + exp_f32(-gate)) * up; }

// a <= b, rounded up: ceil(a / b)
__host__ __device__ __forceinline__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
