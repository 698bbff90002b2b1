// See warp.h.

#include <string.h>

#include "emu/runtime.h"

namespace emu {

namespace {

// The lanes of the operation that exist.
uint32_t lanes_of(uint32_t mask) { return mask & g_worker->warps[g_worker->self->warp].exist; }

}  // namespace

uint64_t shuffle(uint32_t mask, uint64_t value, uint32_t source, const char* file, int line) {
  Thread& self = *g_worker->self;
  self.value = value;
  self.arg = source;
  if (collective(Op::Shuffle, mask, file, line)) {
    const uint32_t lanes = lanes_of(mask);
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
      Thread& t = lane_of(__builtin_ctz(rest));
      if (!(lanes >> t.arg & 1)) fail("shuffle at %s:%d: lane %u reads lane %u, which takes no part", file, line, t.lane, t.arg);
      t.result = lane_of(t.arg).value;
    }
  }
  return self.result;
}

uint32_t vote(uint32_t mask, uint32_t predicate, const char* file, int line) {
  Thread& self = *g_worker->self;
  self.value = predicate;
  if (collective(Op::Vote, mask, file, line)) {
    const uint32_t lanes = lanes_of(mask);
    uint32_t ballot = 0;
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
      const Thread& t = lane_of(__builtin_ctz(rest));
      ballot |= static_cast<uint32_t>(t.value) << t.lane;
    }
    for (uint32_t rest = lanes; rest; rest &= rest - 1) lane_of(__builtin_ctz(rest)).result = ballot;
  }
  return static_cast<uint32_t>(self.result);
}

uint32_t match_any(uint32_t mask, uint64_t value, const char* file, int line) {
  Thread& self = *g_worker->self;
  self.value = value;
  if (collective(Op::Match, mask, file, line)) {
    const uint32_t lanes = lanes_of(mask);
    for (uint32_t i = lanes; i; i &= i - 1) {
      Thread& t = lane_of(__builtin_ctz(i));
      t.result = 0;
      for (uint32_t j = lanes; j; j &= j - 1) {
        if (lane_of(__builtin_ctz(j)).value == t.value) t.result |= j & -j;
      }
    }
  }
  return static_cast<uint32_t>(self.result);
}

uint32_t active_lanes() { return g_worker->warps[g_worker->self->warp].alive; }

}  // namespace emu
