// mma, ldmatrix and conversions: for tests/emu/features.rs and benches/emu.rs. Fragments are indexed as the PTX manual
// draws them (sections on m16n8k16 and m16n8k8): lane = 4 group + quarter.
#include "common/shared.cuh"
#include "common/types.cuh"

__device__ __forceinline__ uint32_t pair(const uint16_t* low, const uint16_t* high) {
    return static_cast<uint32_t>(*low) | static_cast<uint32_t>(*high) << 16;
}

// d [16, 8] = a [16, 16] b [16, 8] + c [16, 8], a block a tile of each; a and b are 16 bits wide: kind 0 bf16, 1 f16. Fragments from global
// memory, or through shared memory by ldmatrix (a by rows, b transposed).
extern "C" __global__ void __launch_bounds__(32) probe_mma_16(const uint16_t* a, const uint16_t* b, const float* c,
                                                             float* d, int32_t kind, int32_t through_shared) {
    __shared__ alignas(16) uint16_t s_a[16][16];
    __shared__ alignas(16) uint16_t s_b[16][8];
    int lane = threadIdx.x, group = lane / 4, quarter = lane % 4;
    uint32_t fa[4], fb[2];
    a += blockIdx.x * 256, b += blockIdx.x * 128, c += blockIdx.x * 128, d += blockIdx.x * 128;
    if (through_shared) {
        for (int i = lane; i < 256; i += 32) s_a[i / 16][i % 16] = a[i];
        for (int i = lane; i < 128; i += 32) s_b[i / 8][i % 8] = b[i];
        __syncthreads();
        // Matrices: rows 0..8 and 8..16 of columns 0..8, then of columns 8..16.
        emu::ldmatrix_x4(fa, &s_a[lane % 16][lane / 16 * 8]);
        emu::ldmatrix_x2_trans(fb, &s_b[lane % 16][0]);
    } else {
        for (int i = 0; i < 4; ++i) {
            const uint16_t* at = a + (group + i % 2 * 8) * 16 + quarter * 2 + i / 2 * 8;
            fa[i] = pair(at, at + 1);
        }
        for (int i = 0; i < 2; ++i) {
            const uint16_t* at = b + (quarter * 2 + i * 8) * 8 + group;
            fb[i] = pair(at, at + 8);
        }
    }
    float sum[4];
    for (int i = 0; i < 4; ++i) sum[i] = c[(group + i / 2 * 8) * 8 + quarter * 2 + i % 2];
    if (kind == 0) {
        emu::mma_m16n8k16_bf16(sum, fa, fb, sum);
    } else {
        emu::mma_m16n8k16_f16(sum, fa, fb, sum);
    }
    for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + quarter * 2 + i % 2] = sum[i];
}

// d [16, 8] = a [16, 8] b [8, 8] in tf32.
extern "C" __global__ void __launch_bounds__(32) probe_mma_tf32(const float* a, const float* b, float* d) {
    int lane = threadIdx.x, group = lane / 4, quarter = lane % 4;
    uint32_t fa[4], fb[2];
    for (int i = 0; i < 4; ++i) fa[i] = __float_as_uint(a[(group + i % 2 * 8) * 8 + quarter + i / 2 * 4]);
    for (int i = 0; i < 2; ++i) fb[i] = __float_as_uint(b[(quarter + i * 4) * 8 + group]);
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    emu::mma_m16n8k8_tf32(sum, fa, fb, sum);
    for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + quarter * 2 + i % 2] = sum[i];
}

// Each warp multiplies `rounds` times.
extern "C" __global__ void __launch_bounds__(256) probe_mmas(float* out, int32_t rounds) {
    uint32_t a[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u}, b[2] = {0x3c003c00u, 0x3c003c00u};
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int i = 0; i < rounds; ++i) emu::mma_m16n8k16_bf16(sum, a, b, sum);
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum[0];
}

// Bits of x [N] rounded to bf16 and f16, and back: out [N, 2] and back [N, 2].
extern "C" __global__ void __launch_bounds__(128) probe_convert(const float* x, int32_t* out, float* back, int32_t n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    bf16 b = __float2bfloat16_rn(x[i]);
    f16 h = __float2half_rn(x[i]);
    out[2 * i] = __bfloat16_as_ushort(b);
    out[2 * i + 1] = __half_as_ushort(h);
    back[2 * i] = __bfloat162float(b);
    back[2 * i + 1] = __half2float(h);
}

// rsqrtf and exp2f of x [N]: out [N, 2].
extern "C" __global__ void __launch_bounds__(128) probe_approximations(const float* x, float* out, int32_t n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    out[2 * i] = rsqrtf(x[i]);
    out[2 * i + 1] = exp2f(x[i]);
}
