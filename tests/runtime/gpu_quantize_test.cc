// The FP8 casts on a real GPU against the host, bit for bit.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>

#include "tests/runtime/gpu_support.h"

namespace kiln::test {
namespace {

struct CastCase {
  jit::QuantizeInput in;
  jit::Fp8Type out;
  jit::ScaleGranularity granularity;
  jit::ScaleMajor major;
  bool power_of_two;
  std::int64_t rows, cols;
};

// Magnitudes over many decades, with zeros, whole blocks of zeros, and the odd NaN and infinity.
float draw(std::mt19937_64& random, std::int64_t row, std::int64_t col) {
  if (row % 11 == 3 && col / 128 == 1) return 0.0f;
  const int kind = std::uniform_int_distribution<int>(0, 1999)(random);
  if (kind == 0) return std::numeric_limits<float>::quiet_NaN();
  if (kind == 1) return std::numeric_limits<float>::infinity();
  if (kind < 20) return kind % 2 == 0 ? 0.0f : -0.0f;
  const float decade = std::ldexp(1.0f, static_cast<int>(row * 7 + col / 128 * 13) % 60 - 30);
  return std::normal_distribution<float>()(random) * decade;
}

float scale_of(float largest, const CastCase& test) {
  if (largest == 0.0f) return 1.0f;
  const auto top = static_cast<float>(format_of(test.out).largest);
  const float scale = std::max(largest / top, std::numeric_limits<float>::min());
  if (!test.power_of_two || std::isinf(scale)) return scale;
  int exponent = 0;
  const float fraction = std::frexp(scale, &exponent);  // in [0.5, 1)
  return fraction == 0.5f ? scale : std::ldexp(1.0f, exponent);
}

bool same_bits(float x, float y) { return std::memcmp(&x, &y, sizeof(x)) == 0; }

template <class In>
void check_cast(Gpu& gpu, const CastCase& test, float (*widen)(In), In (*narrow)(float)) {
  const bool per_row = test.granularity == jit::ScaleGranularity::k1x128;
  const bool row_major = test.major == jit::ScaleMajor::kRow;
  const std::int64_t block_rows = per_row ? 1 : 128;
  const std::int64_t scale_rows = jit::ceil_div(test.rows, block_rows),
                     blocks = jit::scale_blocks(test.cols);
  PaddedMatrix<In> in(test.rows, test.cols, test.cols + 24);
  PaddedMatrix<std::uint8_t> out(test.rows, test.cols, test.cols + 16);
  PaddedMatrix<float> scales(row_major ? scale_rows : blocks, row_major ? blocks : scale_rows,
                             (row_major ? blocks : scale_rows) + 3);
  std::mt19937_64 random(static_cast<std::uint64_t>(test.rows * 1000 + test.cols));
  for (std::int64_t row = 0; row < test.rows; ++row)
    for (std::int64_t col = 0; col < test.cols; ++col)
      in.at(row, col) = narrow(draw(random, row, col));
  in.to_device(gpu.device());
  out.to_device(gpu.device());
  scales.to_device(gpu.device());

  kiln_quantize_problem problem = KILN_QUANTIZE_PROBLEM_INIT;
  problem.in_type = sizeof(In) == 2 ? KILN_TYPE_BF16 : KILN_TYPE_F32;
  problem.out_type = static_cast<int>(test.out);
  problem.granularity = static_cast<int>(test.granularity);
  problem.scale_major = static_cast<int>(test.major);
  problem.power_of_two = test.power_of_two ? 1 : 0;
  kiln_quantizer* quantizer = nullptr;
  KILN_CHECK_OK(kiln_quantizer_create(gpu.handle(), &problem, &quantizer));
  kiln_quantize_operands o = KILN_QUANTIZE_OPERANDS_INIT;
  o.rows = test.rows;
  o.cols = test.cols;
  o.in = in.device_data();
  o.ld_in = in.stride();
  o.out = out.device_data();
  o.ld_out = out.stride();
  o.scales = scales.device_data();
  o.ld_scales = scales.stride();
  KILN_CHECK_OK(kiln_quantize(quantizer, &o, gpu.stream()));
  gpu.synchronize();
  kiln_quantizer_destroy(quantizer);
  out.from_device();
  scales.from_device();
  CHECK(out.padding_is_intact());
  CHECK(scales.padding_is_intact());

  std::int64_t wrong_scales = 0, wrong_values = 0;
  for (std::int64_t first_row = 0; first_row < test.rows; first_row += block_rows) {
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::int64_t end_row = std::min(test.rows, first_row + block_rows);
      const std::int64_t end_col = std::min(test.cols, block * 128 + 128);
      float largest = 0;
      for (std::int64_t row = first_row; row < end_row; ++row)
        for (std::int64_t col = block * 128; col < end_col; ++col)
          largest = std::fmax(largest, std::fabs(widen(in.at(row, col))));
      const float scale = scale_of(largest, test);
      const std::int64_t scale_row = first_row / block_rows;
      wrong_scales +=
          !same_bits(row_major ? scales.at(scale_row, block) : scales.at(block, scale_row), scale);
      const float inverse = 1.0f / scale;
      for (std::int64_t row = first_row; row < end_row; ++row)
        for (std::int64_t col = block * 128; col < end_col; ++col)
          wrong_values +=
              out.at(row, col) != encode_fp8(widen(in.at(row, col)) * inverse, format_of(test.out));
    }
  }
  CHECK(wrong_scales == 0);
  CHECK(wrong_values == 0);
}

std::uint16_t narrow_bf16(float value) {
  return std::isnan(value) ? std::uint16_t{0x7fc0} : float_to_bf16(value);
}
float same(float value) { return value; }

void check_shape(Gpu& gpu, std::int64_t rows, std::int64_t cols) {
  using enum jit::ScaleGranularity;
  using enum jit::ScaleMajor;
  for (const auto out : {jit::Fp8Type::kE4m3, jit::Fp8Type::kE5m2}) {
    for (const bool power_of_two : {false, true}) {
      for (const auto& [granularity, major] :
           {std::pair(k1x128, kRow), std::pair(k1x128, kM), std::pair(k128x128, kRow)}) {
        INFO(rows << " x " << cols << " to " << jit::name(out)
                  << (granularity == k1x128 ? " 1x128 " : " 128x128 ") << jit::name(major)
                  << (power_of_two ? " power of two" : ""));
        check_cast<std::uint16_t>(
            gpu, {jit::QuantizeInput::kBf16, out, granularity, major, power_of_two, rows, cols},
            bf16_to_float, narrow_bf16);
        check_cast<float>(
            gpu, {jit::QuantizeInput::kF32, out, granularity, major, power_of_two, rows, cols},
            same, same);
      }
    }
  }
}

}  // namespace

TEST_CASE("casts to FP8 equal the host's bit for bit, scales too, with nothing written outside",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int64_t rows : {0, 1, 31, 33, 128, 300}) {
    for (const std::int64_t cols : {16, 128, 400, 1040}) check_shape(gpu, rows, cols);
  }
}

}  // namespace kiln::test
