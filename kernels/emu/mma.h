// Tensor-core operations and cp.async with the hardware's fragment layout. common/ptx.cuh calls these by PTX's names.
//
// The sums are a tensor core's, to the bit: see tensor.h.
#pragma once

namespace emu {

// d = a b + c; a 16 x k, b k x 8, c and d 16 x 8, in fragments of each lane.
void mma(uint32_t kind, float* d, const uint32_t* a, const uint32_t* b, const float* c, const char* file, int line);
// `n` 8 x 8 matrices of 16-bit elements: lane i gives the address of row i % 8 of matrix i / 8.
void ldmatrix(uint32_t n, bool transposed, uint32_t* r, const void* row, const char* file, int line);

enum : uint32_t { MMA_BF16 = 0, MMA_F16 = 1, MMA_TF32 = 2 };
enum : uint32_t { HOPPER = 0, AMPERE = 1 };  // whose tensor cores: Launch::tensor_cores

inline void mma_m16n8k16_bf16(float* d, const uint32_t* a, const uint32_t* b, const float* c) {
  mma(MMA_BF16, d, a, b, c, "mma_m16n8k16_bf16", 0);
}
inline void mma_m16n8k16_f16(float* d, const uint32_t* a, const uint32_t* b, const float* c) {
  mma(MMA_F16, d, a, b, c, "mma_m16n8k16_f16", 0);
}
inline void mma_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b, const float* c) {
  mma(MMA_TF32, d, a, b, c, "mma_m16n8k8_tf32", 0);
}
inline void ldmatrix_x1(uint32_t* r, const void* row) { ldmatrix(1, false, r, row, "ldmatrix_x1", 0); }
inline void ldmatrix_x2(uint32_t* r, const void* row) { ldmatrix(2, false, r, row, "ldmatrix_x2", 0); }
inline void ldmatrix_x4(uint32_t* r, const void* row) { ldmatrix(4, false, r, row, "ldmatrix_x4", 0); }
inline void ldmatrix_x1_trans(uint32_t* r, const void* row) { ldmatrix(1, true, r, row, "ldmatrix_x1_trans", 0); }
inline void ldmatrix_x2_trans(uint32_t* r, const void* row) { ldmatrix(2, true, r, row, "ldmatrix_x2_trans", 0); }
inline void ldmatrix_x4_trans(uint32_t* r, const void* row) { ldmatrix(4, true, r, row, "ldmatrix_x4_trans", 0); }

// Rounds to tf32 as cvt.rna does: nearest, ties away from zero.
inline uint32_t cvt_rna_tf32(float x) { return (bits_of(x) + 0x1000u) & 0xFFFFE000u; }

inline void cp_async_16(void* to, const void* from) { copy_begin(to, from, 16, 16); }
inline void cp_async_8(void* to, const void* from) { copy_begin(to, from, 8, 8); }
inline void cp_async_4(void* to, const void* from) { copy_begin(to, from, 4, 4); }
// Copies `from_bytes` and fills the rest with zeros.
inline void cp_async_16(void* to, const void* from, uint32_t from_bytes) { copy_begin(to, from, 16, from_bytes); }
inline void cp_async_8(void* to, const void* from, uint32_t from_bytes) { copy_begin(to, from, 8, from_bytes); }
inline void cp_async_4(void* to, const void* from, uint32_t from_bytes) { copy_begin(to, from, 4, from_bytes); }
inline void cp_async_commit() { copy_commit(); }
template <int N>
inline void cp_async_wait() { copy_wait(N); }
inline void cp_async_wait_all() { copy_commit(), copy_wait(0); }

}  // namespace emu
