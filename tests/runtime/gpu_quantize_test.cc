// The FP8 casts on a real GPU against the host, bit for bit.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

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

// Magnitudes over the whole range of BF16, subnormal numbers too, with rows, columns and blocks of
// zeros and of NaN, and the odd NaN, zero and infinity. Numbers within a block of 128 x 128 are of
// similar size, so that few become zeros; the infinities, which make their whole block zeros, are
// confined to some blocks.
float draw(std::mt19937_64& random, std::int64_t row, std::int64_t col) {
  const std::int64_t block = row / 128 + col / 128 * 2;
  const float zero = (row + col) % 2 == 0 ? 0.0f : -0.0f;
  if (row % 37 == 5 || col % 41 == 7 || block % 5 == 3) return zero;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (row % 53 == 11 || col % 59 == 13 || block % 5 == 4) return nan;
  const int kind = std::uniform_int_distribution<int>(0, 1999)(random);
  if (kind == 0) return nan;
  if (kind == 1 && block % 5 == 1)
    return (row % 2 == 0 ? 1.0f : -1.0f) * std::numeric_limits<float>::infinity();
  if (kind < 20) return zero;
  const auto exponent = static_cast<int>((row / 128 * 37 + col / 128 * 53) % 240 - 130);
  return std::ldexp(std::normal_distribution<float>()(random),
                    exponent + static_cast<int>(row % 4 + col % 3));
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

// What a cast is asked for, beside its shape and whether it is two-way.
struct CastKind {
  jit::Fp8Type out;
  jit::ScaleGranularity granularity;
  jit::ScaleMajor major;
  bool power_of_two;
};

std::vector<CastKind> cast_kinds() {
  using enum jit::ScaleGranularity;
  using enum jit::ScaleMajor;
  std::vector<CastKind> kinds;
  for (const auto out : {jit::Fp8Type::kE4m3, jit::Fp8Type::kE5m2})
    for (const bool power_of_two : {false, true})
      for (const auto& [granularity, major] :
           {std::pair(k1x128, kRow), std::pair(k1x128, kM), std::pair(k128x128, kRow)})
        kinds.push_back({out, granularity, major, power_of_two});
  return kinds;
}

class Quantizer {  // of BF16
 public:
  Quantizer(Gpu& gpu, const CastKind& kind, bool two_way) : gpu_(gpu) {
    kiln_quantize_problem problem = KILN_QUANTIZE_PROBLEM_INIT;
    problem.out_type = static_cast<int>(kind.out);
    problem.granularity = static_cast<int>(kind.granularity);
    problem.scale_major = static_cast<int>(kind.major);
    problem.power_of_two = kind.power_of_two ? 1 : 0;
    problem.two_way = two_way ? 1 : 0;
    KILN_CHECK_OK(kiln_quantizer_create(gpu.handle(), &problem, &handle_));
  }
  ~Quantizer() { kiln_quantizer_destroy(handle_); }
  Quantizer(const Quantizer&) = delete;
  Quantizer& operator=(const Quantizer&) = delete;

  void run(const kiln_quantize_operands& operands) const {
    KILN_CHECK_OK(kiln_quantize(handle_, &operands, gpu_.stream()));
    gpu_.synchronize();
  }

 private:
  Gpu& gpu_;
  kiln_quantizer* handle_ = nullptr;
};

// FP8 values [rows, cols] and their scales, guarded, on host and device.
struct Cast {
  Cast(Gpu& gpu, const CastKind& kind, std::int64_t rows, std::int64_t cols)
      : Cast(rows, cols,
             kind.granularity == jit::ScaleGranularity::k1x128 ? rows : jit::scale_blocks(rows),
             jit::scale_blocks(cols), kind.major == jit::ScaleMajor::kM) {
    values.to_device(gpu.device());
    scales.to_device(gpu.device());
  }
  void from_device() {
    values.from_device();
    scales.from_device();
  }
  bool operator==(const Cast& other) const {  // guards and padding too
    return values.bytes() == other.values.bytes() && scales.bytes() == other.scales.bytes();
  }
  PaddedMatrix<std::uint8_t> values;
  PaddedMatrix<float> scales;

 private:
  Cast(std::int64_t rows, std::int64_t cols, std::int64_t scale_rows, std::int64_t blocks,
       bool m_major)
      : values(rows, cols, cols + 16),
        scales(m_major ? blocks : scale_rows, m_major ? scale_rows : blocks,
               (m_major ? scale_rows : blocks) + 3) {}
};

PaddedMatrix<std::uint16_t> bf16_matrix(std::int64_t rows, std::int64_t cols) {
  constexpr std::uint16_t kNaNs[] = {0x7fc0, 0xffff, 0x7f81};
  PaddedMatrix<std::uint16_t> matrix(rows, cols, cols + 24);
  std::mt19937_64 random(static_cast<std::uint64_t>(rows * 1000 + cols));
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t col = 0; col < cols; ++col) {
      const float value = draw(random, row, col);
      matrix.at(row, col) = std::isnan(value) ? kNaNs[(row + 2 * col) % 3] : float_to_bf16(value);
    }
  }
  return matrix;
}

std::int64_t padded(std::int64_t rows) { return jit::round_up(rows, 16); }

// Rows filled up with zeros to a multiple of 16, which the one-way cast takes.
PaddedMatrix<std::uint16_t> transposed(const PaddedMatrix<std::uint16_t>& matrix) {
  const std::int64_t cols = padded(matrix.rows());
  PaddedMatrix<std::uint16_t> result(matrix.cols(), cols, cols + 24);
  for (std::int64_t row = 0; row < result.rows(); ++row)
    for (std::int64_t col = 0; col < cols; ++col)
      result.at(row, col) = col < matrix.rows() ? matrix.at(col, row) : std::uint16_t{0};
  return result;
}

kiln_quantize_operands one_way_operands(const PaddedMatrix<std::uint16_t>& in, const Cast& cast) {
  kiln_quantize_operands o = KILN_QUANTIZE_OPERANDS_INIT;
  o.rows = in.rows();
  o.cols = in.cols();
  o.in = in.device_data();
  o.ld_in = in.stride();
  o.out = cast.values.device_data();
  o.ld_out = cast.values.stride();
  o.scales = cast.scales.device_data();
  o.ld_scales = cast.scales.stride();
  return o;
}

kiln_quantize_operands two_way_operands(const PaddedMatrix<std::uint16_t>& in, const Cast& cast,
                                        const Cast& cast_t) {
  kiln_quantize_operands o = one_way_operands(in, cast);
  o.out_t = cast_t.values.device_data();
  o.ld_out_t = cast_t.values.stride();
  o.scales_t = cast_t.scales.device_data();
  o.ld_scales_t = cast_t.scales.stride();
  return o;
}

// Against the one-way casts of the matrix and of its transpose, which are compared with the host in
// a test of their own.
void check_two_way(Gpu& gpu, const CastKind& kind, PaddedMatrix<std::uint16_t>& in,
                   PaddedMatrix<std::uint16_t>& in_t) {
  const std::int64_t rows = in.rows(), cols = in.cols();
  const Quantizer one_way(gpu, kind, false), two_way(gpu, kind, true);
  Cast expected(gpu, kind, rows, cols), expected_t(gpu, kind, cols, padded(rows));
  one_way.run(one_way_operands(in, expected));
  one_way.run(one_way_operands(in_t, expected_t));
  Cast cast(gpu, kind, rows, cols), cast_t(gpu, kind, cols, padded(rows));
  two_way.run(two_way_operands(in, cast, cast_t));
  for (Cast* result : {&expected, &expected_t, &cast, &cast_t}) result->from_device();
  for (const Cast* result : {&cast, &cast_t}) {
    CHECK(result->values.padding_is_intact());
    CHECK(result->scales.padding_is_intact());
  }
  CHECK((cast == expected));
  CHECK((cast_t == expected_t));
  std::int64_t not_filled = 0;
  for (std::int64_t col = 0; col < cols; ++col)
    for (std::int64_t row = rows; row < padded(rows); ++row)
      not_filled += cast_t.values.at(col, row) != 0;
  CHECK(not_filled == 0);
}

// A matrix on the device whose rows are too far apart for 32-bit indices.
class FarRows {
 public:
  static constexpr std::int64_t kStride = std::int64_t{1} << 25;

  FarRows(Gpu& gpu, std::int64_t rows, std::int64_t cols, std::int64_t element_bytes)
      : rows_(rows),
        row_bytes_(static_cast<std::size_t>(cols * element_bytes)),
        stride_bytes_(static_cast<std::size_t>(kStride * element_bytes)),
        buffer_(gpu.device(), static_cast<std::size_t>(rows - 1) * stride_bytes_ + row_bytes_) {}

  void* data() const { return buffer_.data(); }
  // Row by row from, or into, a matrix of the same shape.
  template <class T>
  void upload(const PaddedMatrix<T>& matrix) const {
    for (std::int64_t row = 0; row < rows_; ++row)
      buffer_.upload({reinterpret_cast<const std::byte*>(&matrix.at(row, 0)), row_bytes_},
                     static_cast<std::size_t>(row) * stride_bytes_);
  }
  template <class T>
  void download(PaddedMatrix<T>& matrix) const {
    for (std::int64_t row = 0; row < rows_; ++row)
      buffer_.download({reinterpret_cast<std::byte*>(&matrix.at(row, 0)), row_bytes_},
                       static_cast<std::size_t>(row) * stride_bytes_);
  }

 private:
  std::int64_t rows_;
  std::size_t row_bytes_, stride_bytes_;
  runtime::DeviceBuffer buffer_;
};

}  // namespace

TEST_CASE("casts to FP8 equal the host's bit for bit, scales too, with nothing written outside",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int64_t rows : {0, 1, 31, 33, 128, 300}) {
    for (const std::int64_t cols : {16, 128, 400, 1040}) check_shape(gpu, rows, cols);
  }
}

TEST_CASE("a two-way cast equals the casts of the matrix and of its transpose, bit for bit",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  std::vector<std::pair<std::int64_t, std::int64_t>> shapes{{1100, 272}, {129, 2064}};
  for (const std::int64_t rows : {1, 15, 16, 17, 127, 128, 129, 300})
    for (const std::int64_t cols : {16, 112, 128, 144, 400}) shapes.emplace_back(rows, cols);
  for (const auto& [rows, cols] : shapes) {
    PaddedMatrix<std::uint16_t> in = bf16_matrix(rows, cols), in_t = transposed(in);
    in.to_device(gpu.device());
    in_t.to_device(gpu.device());
    for (const CastKind& kind : cast_kinds()) {
      INFO(rows << " x " << cols << " to " << jit::name(kind.out)
                << (kind.granularity == jit::ScaleGranularity::k1x128 ? " 1x128 " : " 128x128 ")
                << jit::name(kind.major) << (kind.power_of_two ? " power of two" : ""));
      check_two_way(gpu, kind, in, in_t);
    }
  }
}

TEST_CASE("a two-way cast of no rows writes nothing", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  PaddedMatrix<std::uint16_t> in = bf16_matrix(20, 144);
  in.to_device(gpu.device());
  for (const CastKind& kind : cast_kinds()) {
    Cast cast(gpu, kind, 20, 144), cast_t(gpu, kind, 144, 32);
    const Cast untouched(gpu, kind, 20, 144), untouched_t(gpu, kind, 144, 32);
    kiln_quantize_operands o = two_way_operands(in, cast, cast_t);
    o.rows = 0;
    Quantizer(gpu, kind, true).run(o);
    cast.from_device();
    cast_t.from_device();
    CHECK((cast == untouched));
    CHECK((cast_t == untouched_t));
  }
}

TEST_CASE("a two-way cast follows strides for which 32 bits are too few", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  constexpr std::int64_t kRows = 200, kCols = 144;
  std::optional<FarRows> in_far, out_far, out_t_far;
  try {
    in_far.emplace(gpu, kRows, kCols, 2);
    out_far.emplace(gpu, kRows, kCols, 1);
    out_t_far.emplace(gpu, kCols, padded(kRows), 1);
  } catch (const Error& error) {
    KILN_SKIP(std::string("needs 25 GB of device memory: ") + error.what());
  }
  PaddedMatrix<std::uint16_t> in = bf16_matrix(kRows, kCols);
  in.to_device(gpu.device());
  in_far->upload(in);
  for (const CastKind& kind : cast_kinds()) {
    const Quantizer two_way(gpu, kind, true);
    Cast near(gpu, kind, kRows, kCols), near_t(gpu, kind, kCols, padded(kRows));
    two_way.run(two_way_operands(in, near, near_t));
    near.from_device();
    near_t.from_device();

    Cast far(gpu, kind, kRows, kCols), far_t(gpu, kind, kCols, padded(kRows));
    out_far->upload(far.values);  // poison
    out_t_far->upload(far_t.values);
    kiln_quantize_operands o = two_way_operands(in, far, far_t);
    o.in = in_far->data();
    o.out = out_far->data();
    o.out_t = out_t_far->data();
    o.ld_in = o.ld_out = o.ld_out_t = FarRows::kStride;
    two_way.run(o);
    far.scales.from_device();
    far_t.scales.from_device();
    out_far->download(far.values);
    out_t_far->download(far_t.values);
    CHECK((far == near));
    CHECK((far_t == near_t));
  }
}

}  // namespace kiln::test
