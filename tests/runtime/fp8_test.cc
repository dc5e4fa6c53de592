// The host's FP8 codec, which the GPU tests take as the truth.
#include "tests/runtime/fp8.h"

#include <algorithm>
#include <vector>

#include "tests/support/catch.h"

namespace kiln::test {

TEST_CASE("known FP8 values decode as the formats define them", "[runtime]") {
  CHECK(decode_fp8(0x00, kE4m3Format) == 0.0);
  CHECK(decode_fp8(0x38, kE4m3Format) == 1.0);
  CHECK(decode_fp8(0x7e, kE4m3Format) == 448.0);
  CHECK(decode_fp8(0x01, kE4m3Format) == std::ldexp(1.0, -9));
  CHECK(decode_fp8(0xbc, kE4m3Format) == -1.5);
  CHECK(std::isnan(decode_fp8(0x7f, kE4m3Format)));
  CHECK(decode_fp8(0x3c, kE5m2Format) == 1.0);
  CHECK(decode_fp8(0x7b, kE5m2Format) == 57344.0);
  CHECK(decode_fp8(0x01, kE5m2Format) == std::ldexp(1.0, -16));
  CHECK(std::isinf(decode_fp8(0x7c, kE5m2Format)));
  CHECK(std::isnan(decode_fp8(0x7f, kE5m2Format)));
}

TEST_CASE("encoding rounds every FP8 value to itself and midpoints to even", "[runtime]") {
  for (const Fp8Format& f : {kE4m3Format, kE5m2Format}) {
    std::vector<std::pair<double, int>> values;  // non-negative, with their bits
    for (int bits = 0; bits < 256; ++bits) {
      const double value = decode_fp8(static_cast<std::uint8_t>(bits), f);
      if (!std::isfinite(value)) continue;
      CHECK(encode_fp8(static_cast<float>(value), f) == bits);
      if (bits < 128) values.emplace_back(value, bits);
    }
    std::sort(values.begin(), values.end());
    for (std::size_t i = 1; i < values.size(); ++i) {
      const float middle = static_cast<float>((values[i - 1].first + values[i].first) / 2);
      const int low = values[i - 1].second, high = values[i].second;
      CHECK(encode_fp8(middle, f) == (low % 2 == 0 ? low : high));
      CHECK(encode_fp8(std::nextafter(middle, 0.0f), f) == low);
      CHECK(encode_fp8(std::nextafter(middle, 1e9f), f) == high);
    }
    CHECK(encode_fp8(1e9f, f) == values.back().second);
    CHECK(encode_fp8(-std::numeric_limits<float>::infinity(), f) == (values.back().second | 0x80));
    CHECK(encode_fp8(std::nanf(""), f) == kFp8NaN);
    CHECK(encode_fp8(-0.0f, f) == 0x80);
  }
}

}  // namespace kiln::test
