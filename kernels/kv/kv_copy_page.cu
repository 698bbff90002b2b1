// kv_copy_page    pages[to] = pages[from]
//
// Shapes          pages [P, W] f32 or bf16, W = Hk S D elements a page
// Numerics        a copy.
// Parallel        one thread 16 bytes of elements where pages allow it, else one.
// Cost            reads and writes W elements. Memory bound; a page is small.
// Sass            page: LDG.E.128 STG.E.128
// Requires        from != to, both in 0..P.
#include "common/types.cuh"

template <int N, typename T>
__device__ __forceinline__ void kv_copy_page(T* pages /* [P, W] */, int64_t from, int64_t to, int64_t width) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (i < width) store_pack(pages + to * width + i, load_pack<N>(pages + from * width + i));
}

template <typename T>
__device__ __forceinline__ void kv_copy_page(T* pages, int64_t from, int64_t to, int64_t width, int32_t vectors) {
    vectors ? kv_copy_page<PACK<T>>(pages, from, to, width) : kv_copy_page<1>(pages, from, to, width);
}

extern "C" __global__ void __launch_bounds__(256)
    kv_copy_page_f32(float* pages, int64_t from, int64_t to, int64_t width, int32_t vectors) {
    kv_copy_page(pages, from, to, width, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    kv_copy_page_bf16(bf16* pages, int64_t from, int64_t to, int64_t width, int32_t vectors) {
    kv_copy_page(pages, from, to, width, vectors);
}
