#include "tests/runtime/gpu_support.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace kiln::test {
namespace {

std::int64_t pad(std::int64_t value, std::int64_t unit) {
  return jit::round_up(value, unit) + unit;
}

std::array<double, 256> decode_table(jit::Fp8Type type) {
  std::array<double, 256> table{};
  for (std::size_t i = 0; i < 256; ++i)
    table[i] = decode_fp8(static_cast<std::uint8_t>(i), format_of(type));
  return table;
}

}  // namespace

const std::array<double, 256>& decoded(jit::Fp8Type type) {
  static const std::array<double, 256> e4m3 = decode_table(jit::Fp8Type::kE4m3);
  static const std::array<double, 256> e5m2 = decode_table(jit::Fp8Type::kE5m2);
  return type == jit::Fp8Type::kE4m3 ? e4m3 : e5m2;
}

kiln_problem c_problem(const jit::Problem& p) {
  kiln_problem problem = KILN_PROBLEM_INIT;
  problem.layout = static_cast<int>(p.layout);
  problem.scaling = static_cast<int>(p.scaling);
  problem.n = p.n;
  problem.k = p.k;
  problem.a_type = static_cast<int>(p.a);
  problem.b_type = static_cast<int>(p.b);
  problem.d_type = p.out == jit::OutputType::kBf16 ? KILN_TYPE_BF16 : KILN_TYPE_F32;
  problem.sfa_major = static_cast<int>(p.sfa_major);
  problem.accumulate = p.accumulate ? 1 : 0;
  problem.group_form = static_cast<int>(p.group_form);
  problem.groups = p.groups;
  problem.alignment = p.alignment;
  return problem;
}

Gpu::Gpu(kiln_engine* engine)
    : engine_(engine),
      stream_(std::make_unique<runtime::Stream>(runtime::engine_of(engine).device())) {}

const Gpu::Found& Gpu::found() {
  static const Found result = [] {
    std::string reason;
    kiln_engine* const engine = open_test_engine(reason);
    return Found{engine != nullptr ? std::make_unique<Gpu>(engine) : nullptr, reason};
  }();
  return result;
}

GemmData::GemmData(Gpu& gpu, const GemmCase& test)
    : a(test.m, test.problem.k, pad(test.problem.k, 16)),
      b(test.problem.n, test.problem.k, pad(test.problem.k, 16)),
      sfa(test.problem.sfa_major == jit::ScaleMajor::kRow ? test.m
                                                          : jit::scale_blocks(test.problem.k),
          test.problem.sfa_major == jit::ScaleMajor::kRow ? jit::scale_blocks(test.problem.k)
                                                          : test.m,
          test.problem.sfa_major == jit::ScaleMajor::kRow ? jit::scale_blocks(test.problem.k) + 1
                                                          : pad(test.m, 4)),
      sfb(jit::scale_blocks(test.problem.n), jit::scale_blocks(test.problem.k),
          jit::scale_blocks(test.problem.k) + 1),
      d16(test.problem.out == jit::OutputType::kBf16 ? test.m : 0, test.problem.n,
          pad(test.problem.n, 8)),
      d32(test.problem.out == jit::OutputType::kF32 ? test.m : 0, test.problem.n,
          pad(test.problem.n, 4)),
      c(test.problem.accumulate ? test.m : 0, test.problem.n, test.problem.n),
      gpu_(gpu),
      test_(test),
      random_(test.seed) {}

GemmData::~GemmData() { kiln_plan_destroy(plan_); }

// The tensor core keeps about 14 bits of a sum of products; 128 products of integers up to 3 stay
// below 2^11. Scales are powers of two, so that the sums over blocks stay multiples of 1/16 below
// 2^20: exact in FP32.
void GemmData::fill_exact() {
  const auto integer = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random_);
  };
  const auto fill = [&](PaddedMatrix<std::uint8_t>& matrix, jit::Fp8Type type) {
    for (std::int64_t row = 0; row < matrix.rows(); ++row)
      for (std::int64_t col = 0; col < matrix.cols(); ++col)
        matrix.at(row, col) = encode_fp8(static_cast<float>(integer(-3, 3)), format_of(type));
  };
  const auto fill_scales = [&](PaddedMatrix<float>& matrix) {
    for (std::int64_t row = 0; row < matrix.rows(); ++row)
      for (std::int64_t col = 0; col < matrix.cols(); ++col)
        matrix.at(row, col) = std::ldexp(1.0f, integer(-2, 1));
  };
  fill(a, test_.problem.a);
  fill(b, test_.problem.b);
  fill_scales(sfa);
  fill_scales(sfb);
  for (std::int64_t row = 0; row < c.rows(); ++row)
    for (std::int64_t col = 0; col < c.cols(); ++col)
      c.at(row, col) = static_cast<float>(integer(-50, 50));
}

void GemmData::fill_random() {
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> scale(0.001f, 0.02f);
  const auto fill = [&](PaddedMatrix<std::uint8_t>& matrix, jit::Fp8Type type) {
    const float spread = static_cast<float>(format_of(type).largest) / 4;
    for (std::int64_t row = 0; row < matrix.rows(); ++row)
      for (std::int64_t col = 0; col < matrix.cols(); ++col)
        matrix.at(row, col) = encode_fp8(normal(random_) * spread, format_of(type));
  };
  const auto fill_scales = [&](PaddedMatrix<float>& matrix) {
    for (std::int64_t row = 0; row < matrix.rows(); ++row)
      for (std::int64_t col = 0; col < matrix.cols(); ++col) matrix.at(row, col) = scale(random_);
  };
  fill(a, test_.problem.a);
  fill(b, test_.problem.b);
  fill_scales(sfa);
  fill_scales(sfb);
  for (std::int64_t row = 0; row < c.rows(); ++row)
    for (std::int64_t col = 0; col < c.cols(); ++col) c.at(row, col) = normal(random_);
}

void GemmData::upload() {
  for (std::int64_t row = 0; row < c.rows(); ++row)
    for (std::int64_t col = 0; col < c.cols(); ++col) {
      if (is_bf16()) {
        d16.at(row, col) = float_to_bf16(c.at(row, col));
      } else {
        d32.at(row, col) = c.at(row, col);
      }
    }
  a.to_device(gpu_.device());
  b.to_device(gpu_.device());
  sfa.to_device(gpu_.device());
  sfb.to_device(gpu_.device());
  d16.to_device(gpu_.device());
  d32.to_device(gpu_.device());
}

kiln_operands GemmData::operands() const {
  kiln_operands o = KILN_OPERANDS_INIT;
  o.m = test_.m;
  o.a = a.device_data();
  o.lda = a.stride();
  o.b = b.device_data();
  o.ldb = b.stride();
  o.sfa = sfa.device_data();
  o.ld_sfa = sfa.stride();
  o.sfb = sfb.device_data();
  o.ld_sfb = sfb.stride();
  o.d = is_bf16() ? static_cast<void*>(d16.device_data()) : d32.device_data();
  o.ldd = is_bf16() ? d16.stride() : d32.stride();
  return o;
}

kiln_plan* GemmData::plan() {
  if (plan_ != nullptr) return plan_;
  const kiln_problem problem = c_problem(test_.problem);
  const kiln_tile tile = runtime::to_c(test_.tile.value_or(jit::Tile{}));
  KILN_CHECK_OK(kiln_plan_create(gpu_.handle(), &problem, test_.tile ? &tile : nullptr, &plan_));
  return plan_;
}

void GemmData::launch(std::uint32_t flags, std::int32_t num_sms) {
  kiln_operands o = operands();
  o.flags = flags;
  o.num_sms = num_sms;
  KILN_CHECK_OK(kiln_launch(plan(), &o, gpu_.stream()));
}

bool GemmData::download() {
  gpu_.synchronize();
  d16.from_device();
  d32.from_device();
  return d16.padding_is_intact() && d32.padding_is_intact();
}

float GemmData::scale_a(std::int64_t row, std::int64_t block) const {
  return test_.problem.sfa_major == jit::ScaleMajor::kRow ? sfa.at(row, block) : sfa.at(block, row);
}

double GemmData::reference(std::int64_t row, std::int64_t col, double* magnitude) const {
  const std::array<double, 256>& value_a = decoded(test_.problem.a);
  const std::array<double, 256>& value_b = decoded(test_.problem.b);
  double total = test_.problem.accumulate ? c.at(row, col) : 0;
  double total_magnitude = std::fabs(total);
  for (std::int64_t block = 0; block < sfb.cols(); ++block) {
    double sum = 0;
    double sum_magnitude = 0;
    for (std::int64_t k = block * 128; k < std::min(test_.problem.k, block * 128 + 128); ++k) {
      const double product = value_a[a.at(row, k)] * value_b[b.at(col, k)];
      sum += product;
      sum_magnitude += std::fabs(product);
    }
    const double scale = static_cast<double>(scale_a(row, block)) * sfb.at(col / 128, block);
    total += sum * scale;
    total_magnitude += sum_magnitude * scale;
  }
  if (magnitude != nullptr) *magnitude = total_magnitude;
  return total;
}

double GemmData::result(std::int64_t row, std::int64_t col) const {
  return is_bf16() ? bf16_to_float(d16.at(row, col)) : d32.at(row, col);
}

std::int64_t GemmData::mismatches() const {
  std::int64_t count = 0;
  for (std::int64_t row = 0; row < test_.m; ++row) {
    for (std::int64_t col = 0; col < test_.problem.n; ++col) {
      const auto expected = static_cast<float>(reference(row, col));
      const float rounded = is_bf16() ? bf16_to_float(float_to_bf16(expected)) : expected;
      const auto got = static_cast<float>(result(row, col));
      count += std::isnan(expected) ? !std::isnan(got) : !(got == rounded);
    }
  }
  return count;
}

double GemmData::difference() const {
  double xx = 0, yy = 0, xy = 0;
  for (std::int64_t row = 0; row < test_.m; ++row) {
    for (std::int64_t col = 0; col < test_.problem.n; ++col) {
      const double x = reference(row, col), y = result(row, col);
      xx += x * x;
      yy += y * y;
      xy += x * y;
    }
  }
  return xx + yy == 0 ? 0 : 1 - 2 * xy / (xx + yy);
}

// The tensor core truncates each partial sum to about 13 bits behind the largest product; BF16
// rounds once more to 8 bits.
std::int64_t GemmData::elements_out_of_bounds() const {
  std::int64_t count = 0;
  for (std::int64_t row = 0; row < test_.m; ++row) {
    for (std::int64_t col = 0; col < test_.problem.n; ++col) {
      double magnitude = 0;
      const double x = reference(row, col, &magnitude);
      const double bound =
          magnitude * std::ldexp(1.0, -10) + (is_bf16() ? std::fabs(x) * std::ldexp(1.0, -8) : 0);
      count += !(std::fabs(x - result(row, col)) <= bound);
    }
  }
  return count;
}

}  // namespace kiln::test
