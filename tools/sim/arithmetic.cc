// Numbers: FP8 both ways, and the multiplication itself, which is where the time goes.
#include <array>
#include <bit>
#include <cmath>

#include "tools/sim/mma.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define KILN_SIM_CLONES __attribute__((target_clones("arch=haswell", "default")))
#else
#define KILN_SIM_CLONES
#endif

namespace kiln::sim {
namespace {

struct Format {
  int mantissa_bits, bias;
  float largest;
};
constexpr Format kE4m3{3, 7, 448.f}, kE5m2{2, 15, 57344.f};

float decode(std::uint32_t bits, bool is_e4m3) {
  const Format& f = is_e4m3 ? kE4m3 : kE5m2;
  const auto exponent = static_cast<int>((bits & 0x7f) >> f.mantissa_bits);
  const auto mantissa = static_cast<int>(bits & ((1u << f.mantissa_bits) - 1));
  const float sign = (bits & 0x80) != 0 ? -1.f : 1.f;
  if (is_e4m3 ? (bits & 0x7f) == 0x7f : exponent == 31 && mantissa != 0) return std::nanf("");
  if (!is_e4m3 && exponent == 31) return sign * HUGE_VALF;
  if (exponent == 0)
    return sign * std::ldexp(static_cast<float>(mantissa), 1 - f.bias - f.mantissa_bits);
  return sign * std::ldexp(static_cast<float>(mantissa + (1 << f.mantissa_bits)),
                           exponent - f.bias - f.mantissa_bits);
}

// By the distance of representable values around the magnitude.
std::uint32_t encode(float value, const Format& f) {
  if (std::isnan(value)) return 0x7f;
  const std::uint32_t sign = std::signbit(value) ? 0x80 : 0;
  const float magnitude = std::fmin(std::fabs(value), f.largest);
  if (magnitude == 0) return sign;
  int exponent = std::max(std::ilogb(magnitude), 1 - f.bias);
  auto significand = static_cast<std::uint32_t>(
      std::nearbyint(std::ldexp(magnitude, f.mantissa_bits - exponent)));  // ties to even
  if (significand >> (f.mantissa_bits + 1) != 0) {
    significand >>= 1;
    ++exponent;
  }
  if (significand >> f.mantissa_bits == 0) return sign | significand;  // subnormal
  return sign | static_cast<std::uint32_t>(exponent + f.bias) << f.mantissa_bits |
         (significand & ((1u << f.mantissa_bits) - 1));
}

std::array<float, 256> make_table(bool is_e4m3) {
  std::array<float, 256> table;
  for (std::uint32_t bits = 0; bits < 256; ++bits) table[bits] = decode(bits, is_e4m3);
  return table;
}

}  // namespace

const float* fp8_table(bool is_e4m3) {
  static const std::array<float, 256> e4m3 = make_table(true), e5m2 = make_table(false);
  return is_e4m3 ? e4m3.data() : e5m2.data();
}

KILN_SIM_CLONES void multiply_add(float* values, const float* a, const float* b, std::uint32_t n,
                                  std::uint32_t k_count) {
  for (std::uint32_t row = 0; row < 16; ++row) {
    float* const to = values + row * n;
    for (std::uint32_t k = 0; k < k_count; ++k) {
      const float x = a[row * 32 + k];
      const float* const from = b + k * n;
      for (std::uint32_t column = 0; column < n; ++column) to[column] += x * from[column];
    }
  }
}

KILN_SIM_CLONES void take_later(std::uint32_t* to, const std::uint32_t* from, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) to[i] = to[i] > from[i] ? to[i] : from[i];
}

}  // namespace kiln::sim

namespace kiln_sim {

std::uint16_t to_fp8x2(float low, float high, bool is_e4m3) {
  const auto& format = is_e4m3 ? kiln::sim::kE4m3 : kiln::sim::kE5m2;
  return static_cast<std::uint16_t>(kiln::sim::encode(low, format) | kiln::sim::encode(high, format)
                                                                         << 8);
}

float from_fp8(std::uint8_t bits, bool is_e4m3) { return kiln::sim::fp8_table(is_e4m3)[bits]; }

}  // namespace kiln_sim
