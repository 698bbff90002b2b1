// A tensor in global memory as the copy engine sees it: what cuTensorMapEncodeTiled hides in 128 bytes, in the open.
// Made by Rust (src/device/gpu/tensor_map.rs).
#pragma once

#include <stdint.h>

namespace emu {

struct alignas(64) TensorMap {
  uint64_t base;                // bytes
  uint64_t dims[3];             // elements, innermost first; 1 past `rank`
  uint64_t strides[3];          // bytes from one index to the next; the first is an element's
  uint32_t box[3];              // elements that a copy brings
  uint32_t rank, element_bytes;
  uint32_t swizzle_bytes;       // 128, or 0
  uint8_t rest[48];
};
static_assert(sizeof(TensorMap) == 128, "as large as CUtensorMap");

}  // namespace emu
