// Counter-based noise, equal to src/noise.rs to the bit: a number is a function of (seed, stream, counter) alone.
// Philox4x32-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
#pragma once

#include "common/types.cuh"

struct Philox {
    uint32_t x[4];
};

// 128 bits of noise for a 128-bit counter under a 64-bit key.
__device__ __forceinline__ Philox philox(uint64_t key, Philox c) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c.x[0], p1 = (uint64_t)0xCD9E8D57u * c.x[2];
        c = {{(uint32_t)(p1 >> 32) ^ c.x[1] ^ k0, (uint32_t)p1, (uint32_t)(p0 >> 32) ^ c.x[3] ^ k1, (uint32_t)p0}};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// 64 random bits at `counter` of a stream.
__device__ __forceinline__ uint64_t noise_bits(uint64_t seed, uint64_t stream, uint64_t counter) {
    Philox b = philox(seed, {{(uint32_t)counter, (uint32_t)(counter >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)}});
    return (uint64_t)b.x[0] << 32 | b.x[1];
}

// A uniform number in the open interval (0, 1), 24 bits.
__device__ __forceinline__ float noise_uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
    return ((float)(uint32_t)(noise_bits(seed, stream, counter) >> 40) + 0.5f) * (1.0f / 16777216.0f);
}
