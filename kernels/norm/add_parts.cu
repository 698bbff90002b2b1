// add_parts       dw += sum_n of a column, from the sums of blocks of rows: second half of rmsnorm_bwd's dw, and of bias_bwd
//
// Shapes          parts [P, chains, C] f32, of rmsnorm_bwd (4 chains) or bias_bwd_parts (1)   dw [C] f32
// Numerics        f32; a block's chains are added, (0 + 1) + (2 + 3), and blocks to dw in order: long sums stay exact.
// Parallel        a thread block 32 columns: a warp has a column a lane and adds, all 32 warps fetch, 64 parts ahead.
// Cost            reads 4PC chains bytes, writes 4C bytes. Bound by the chain of P additions.
// Determinism     one order of every sum, whatever the grid; the bits of the CPU device.
// Oracle          src/ops/norm/oracle.rs, src/ops/bias/oracle.rs
#include "common/math.cuh"

constexpr int COLUMNS = 32;  // of a thread block
constexpr int EACH = 2;      // parts a thread fetches of its column
constexpr int WARPS = 32;

extern "C" __global__ void __launch_bounds__(COLUMNS* WARPS)
    add_parts(const float* __restrict__ parts,  // [P, chains, C]
              float* dw,                        // [C], +=
              int64_t n_parts, int32_t chains, int32_t dim) {
    __shared__ float s_part[EACH * WARPS][COLUMNS];
    int lane = threadIdx.x % COLUMNS, warp = threadIdx.x / COLUMNS;
    int32_t column = blockIdx.x * COLUMNS + lane;
    bool live = column < dim;
    float next[EACH], total = live && warp == 0 ? dw[column] : 0.0f;
    auto part_of = [&](int64_t part) {
        const float* from = parts + part * chains * dim + column;
        return chains == 1 ? from[0] : (from[0] + from[dim]) + (from[2 * (int64_t)dim] + from[3 * (int64_t)dim]);
    };
    auto fetch = [&](int64_t first) {
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int64_t part = first + e * WARPS + warp;
            next[e] = live && part < n_parts ? part_of(part) : 0.0f;
        }
    };
    fetch(0);
    for (int64_t first = 0; first < n_parts; first += EACH * WARPS) {
#pragma unroll
        for (int e = 0; e < EACH; e++) s_part[e * WARPS + warp][lane] = next[e];
        __syncthreads();  // s_part holds these parts
        fetch(first + EACH * WARPS);
        if (warp == 0) {
            int here = (int)min((int64_t)(EACH * WARPS), n_parts - first);
#pragma unroll 16
            for (int i = 0; i < here; i++) total += s_part[i][lane];
        }
        __syncthreads();  // s_part is read before it is written again
    }
    if (live && warp == 0) dw[column] = total;
}
