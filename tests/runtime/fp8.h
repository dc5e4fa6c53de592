// FP8 and BF16 on the host, written from the definition of the formats: slow and obvious.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "jit/problem.h"

namespace kiln::test {

struct Fp8Format {
  int mantissa_bits;
  int bias;
  double largest;
  bool has_infinity;
};
inline constexpr Fp8Format kE4m3Format{3, 7, 448.0, false};
inline constexpr Fp8Format kE5m2Format{2, 15, 57344.0, true};
inline const Fp8Format& format_of(jit::Fp8Type type) {
  return type == jit::Fp8Type::kE4m3 ? kE4m3Format : kE5m2Format;
}
inline constexpr std::uint8_t kFp8NaN = 0x7f;  // in both formats

inline double decode_fp8(std::uint8_t bits, const Fp8Format& f) {
  const int exponent = (bits & 0x7f) >> f.mantissa_bits;
  const int mantissa = bits & ((1 << f.mantissa_bits) - 1);
  const int top = (0x7f >> f.mantissa_bits);
  const double sign = (bits & 0x80) != 0 ? -1.0 : 1.0;
  if (f.has_infinity && exponent == top) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
  }
  if (!f.has_infinity && (bits & 0x7f) == 0x7f) return std::nan("");
  const double scale = std::ldexp(1.0, (exponent == 0 ? 1 : exponent) - f.bias - f.mantissa_bits);
  const int significand = exponent == 0 ? mantissa : mantissa + (1 << f.mantissa_bits);
  return sign * significand * scale;
}

// To the nearest, ties to even, beyond the largest to the largest; NaN becomes 0x7f.
inline std::uint8_t encode_fp8(float value, const Fp8Format& f) {
  if (std::isnan(value)) return kFp8NaN;
  const std::uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const double magnitude = std::fabs(static_cast<double>(value));
  const int smallest_exponent = 1 - f.bias;
  int exponent = smallest_exponent;
  if (magnitude > 0 && std::isfinite(magnitude))
    exponent = std::max(exponent, std::ilogb(magnitude));
  const double unit = std::ldexp(1.0, exponent - f.mantissa_bits);
  double rounded = std::isfinite(magnitude) ? std::nearbyint(magnitude / unit) * unit : f.largest;
  rounded = std::min(rounded, f.largest);
  if (rounded == 0) return sign;
  exponent = std::max(std::ilogb(rounded), smallest_exponent);
  const int significand = static_cast<int>(std::ldexp(rounded, f.mantissa_bits - exponent));
  const int hidden = 1 << f.mantissa_bits;
  const int biased = significand >= hidden ? exponent + f.bias : 0;
  return static_cast<std::uint8_t>(sign | biased << f.mantissa_bits | (significand & (hidden - 1)));
}

inline float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

// To the nearest, ties to even. For numbers, not NaN.
inline std::uint16_t float_to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace kiln::test
