// Shuffles, votes, __syncwarp. The last lane to arrive computes for all.
#pragma once

namespace emu {

// Exchanges 64 bits: each lane receives those of lane `source`.
uint64_t shuffle(uint32_t mask, uint64_t value, uint32_t source, const char* file, int line);
// Bits of the lanes whose predicate is not zero.
uint32_t vote(uint32_t mask, uint32_t predicate, const char* file, int line);
// Lanes of the mask whose value is the same.
uint32_t match_any(uint32_t mask, uint64_t value, const char* file, int line);
uint32_t active_lanes();

enum class Way { Index, Up, Down, Xor };

// The lane that is read, by PTX's rules: outside its segment of `width` lanes a lane reads itself.
inline uint32_t source_lane(Way way, uint32_t lane, uint32_t by, uint32_t width) {
  const uint32_t first = lane & ~(width - 1), last = first + width - 1;
  switch (way) {
    case Way::Index: return first + (by & (width - 1));
    case Way::Up: return lane - first < by ? lane : lane - by;
    case Way::Down: return lane + by > last ? lane : lane + by;
    default: return (lane ^ by) > last ? lane : lane ^ by;
  }
}

template <class T>
inline T shuffle(Way way, uint32_t mask, T value, uint32_t by, uint32_t width, const char* file, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = shuffle(mask, bits, source_lane(way, g_worker->self->lane, by, width), file, line);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

// `width` is optional in CUDA.
template <class T>
inline T shuffle_call(Way way, const char* file, int line, uint32_t mask, T value, uint32_t by, uint32_t width = 32) {
  return shuffle(way, mask, value, by, width, file, line);
}

inline void sync_warp(const char* file, int line, uint32_t mask = ~0u) { collective(Op::SyncWarp, mask, file, line); }

}  // namespace emu

#define __shfl_sync(...) ::emu::shuffle_call(::emu::Way::Index, __FILE__, __LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) ::emu::shuffle_call(::emu::Way::Up, __FILE__, __LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) ::emu::shuffle_call(::emu::Way::Down, __FILE__, __LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) ::emu::shuffle_call(::emu::Way::Xor, __FILE__, __LINE__, __VA_ARGS__)
#define __syncwarp(...) ::emu::sync_warp(__FILE__, __LINE__, ##__VA_ARGS__)
#define __ballot_sync(mask, p) ::emu::vote(mask, (p) != 0, __FILE__, __LINE__)
#define __any_sync(mask, p) (::emu::vote(mask, (p) != 0, __FILE__, __LINE__) != 0)
#define __all_sync(mask, p) (::emu::vote(mask, (p) == 0, __FILE__, __LINE__) == 0)
#define __match_any_sync(mask, x) ::emu::match_any(mask, static_cast<uint64_t>(x), __FILE__, __LINE__)
#define __activemask() ::emu::active_lanes()
