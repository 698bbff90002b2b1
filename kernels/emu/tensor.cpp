// See tensor.h.

#include "emu/emu.h"
#include "emu/tensor.h"

namespace emu {

namespace {

// size * 2^exponent, cut off toward zero.
float cut(uint64_t size, int exponent) {
  if (size == 0) return 0.0f;
  const int top = 63 - __builtin_clzll(size) + exponent;
  const int last = top - 23 > -149 ? top - 23 : -149;  // the exponent of a float's last bit
  const int dropped = last - exponent;
  if (dropped > 63) return 0.0f;
  if (dropped <= 0) return ldexpf(static_cast<float>(size), exponent);
  return ldexpf(static_cast<float>(size >> dropped), last);
}

struct Number {
  int64_t significand;  // in units of 2^(exponent - 23)
  int exponent;
};

Number number(float x, float power) {
  const int exponent = static_cast<int>(bits_of(power) >> 23) - 127;
  return {static_cast<int64_t>(ldexp(x, 23 - exponent)), exponent};
}

int64_t shifted(int64_t x, int right) {
  if (right > 62) return 0;
  const int64_t size = x < 0 ? -x : x, aligned = right < 0 ? size << -right : size >> right;
  return x < 0 ? -aligned : aligned;
}

}  // namespace

float dot_add(const float* a, const float* a_power, const float* b, const float* b_power, int k, float c, int fraction) {
  double exact = c;
  for (int i = 0; i < k; ++i) exact += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  if (isnan(exact)) return float_of(0x7FFFFFFFu);
  if (isinf(exact)) return exact < 0 ? -INFINITY : INFINITY;
  const Number start = number(c, power_of(c, LEAST_POWER));
  int most = start.exponent;
  for (int i = 0; i < k; ++i) {
    const int exponent = number(a[i], a_power[i]).exponent + number(b[i], b_power[i]).exponent;
    most = exponent > most ? exponent : most;
  }
  int64_t sum = shifted(start.significand, 23 - fraction + most - start.exponent);
  for (int i = 0; i < k; ++i) {
    const Number x = number(a[i], a_power[i]), y = number(b[i], b_power[i]);
    sum += shifted(x.significand * y.significand, 46 - fraction + most - x.exponent - y.exponent);
  }
  const float size = cut(static_cast<uint64_t>(sum < 0 ? -sum : sum), most - fraction);
  return sum < 0 && size > 0 ? -size : size;
}

}  // namespace emu
