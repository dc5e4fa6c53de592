// What GroupedGemm computes with and should have computed: values, the reference, and the verdict.
#include <algorithm>
#include <cmath>
#include <sstream>

#include "tests/runtime/gpu_grouped_support.h"

namespace kiln::test {
namespace {

bool is_packed(const jit::Problem& p) { return p.group_form == jit::GroupForm::kPacked; }

// Where a group of K ends with what it lacks to whole blocks.
std::int64_t padded_end(std::int64_t k_end, std::int64_t k) {
  return std::min(jit::scale_blocks(k_end) * jit::kScaleBlock, k);
}

}  // namespace

// ---- values ----

std::uint8_t& GroupedGemm::a_at(const Part& p, std::int64_t row, std::int64_t k) {
  if (is_packed(problem()))
    return a_.at(0, p.k_begin * m_ + row * (p.k_end - p.k_begin) + k - p.k_begin);
  return a_.at(p.a_slice * (m_ + 1) + row, k);
}

std::uint8_t& GroupedGemm::b_at(const Part& p, std::int64_t col, std::int64_t k) {
  if (is_packed(problem()))
    return b_.at(0, p.k_begin * problem().n + col * (p.k_end - p.k_begin) + k - p.k_begin);
  return b_.at(p.b_slice * (problem().n + 1) + col, k);
}

float& GroupedGemm::sfa_at(const Part& p, std::int64_t row, std::int64_t block) {
  if (problem().sfa_major == jit::ScaleMajor::kRow)
    return sfa_.at(p.a_slice * (m_ + 1) + row, block);
  return sfa_.at(p.a_slice * (jit::scale_blocks(k_) + 1) + block, row);
}

float& GroupedGemm::sfb_at(const Part& p, std::int64_t col, std::int64_t block) {
  if (is_1d1d()) return sfb_.at(block, col);
  return sfb_.at(p.b_slice * (jit::scale_blocks(problem().n) + 1) + col / 128, block);
}

// The tensor core keeps about 14 bits of a sum of products; 128 products of integers up to 3 stay
// below 2^11. Scales are powers of two, so that the sums over blocks stay multiples of 1/16 below
// 2^20: exact in FP32.
void GroupedGemm::fill_exact() {
  exact_ = true;
  const auto integer = [this](int low, int high) {
    return static_cast<float>(std::uniform_int_distribution<int>(low, high)(random_));
  };
  fill([=] { return integer(-3, 3); }, [=] { return integer(-3, 3); },
       [=] { return std::ldexp(1.0f, static_cast<int>(integer(-2, 1))); },
       [=] { return integer(-50, 50); });
}

void GroupedGemm::fill_random() {
  exact_ = false;
  const auto values = [this](jit::Fp8Type type) {
    const float spread = static_cast<float>(format_of(type).largest) / 4;
    return [this, spread] { return std::normal_distribution<float>(0, spread)(random_); };
  };
  fill(
      values(problem().a), values(problem().b),
      [this] { return std::uniform_real_distribution<float>(0.001f, 0.02f)(random_); },
      [this] { return std::normal_distribution<float>()(random_); });
}

void GroupedGemm::fill(const std::function<float()>& value_a, const std::function<float()>& value_b,
                       const std::function<float()>& scale, const std::function<float()>& value_c) {
  const auto code_a = [&] { return encode_fp8(value_a(), format_of(problem().a)); };
  const auto code_b = [&] { return encode_fp8(value_b(), format_of(problem().b)); };
  const auto fill_whole = [](auto& matrix, const auto& draw) {
    for (std::int64_t row = 0; row < matrix.rows(); ++row)
      for (std::int64_t col = 0; col < matrix.cols(); ++col) matrix.at(row, col) = draw();
  };
  if (test_.fill_all) {
    fill_whole(a_, code_a);
    fill_whole(b_, code_b);
    fill_whole(sfa_, scale);
    fill_whole(sfb_, scale);
  }
  for (const Part& part : parts_) {
    if (!test_.fill_all) fill_part(part, code_a, code_b, scale);
    if (!problem().accumulate) continue;
    for (std::int64_t row = part.first_row; row < part.end_row; ++row) {
      for (std::int64_t col = 0; col < problem().n; ++col) {
        const float value = value_c();
        c_.at(d_row(part, row), col) = is_bf16() ? bf16_to_float(float_to_bf16(value)) : value;
      }
    }
  }
}

void GroupedGemm::fill_part(const Part& part, const std::function<std::uint8_t()>& code_a,
                            const std::function<std::uint8_t()>& code_b,
                            const std::function<float()>& scale) {
  if (part.k_begin == part.k_end) return;
  // Under grouped_k what is missing to 128 holds values too; zero_tail() makes one of them zero.
  const bool k_groups = problem().layout == jit::Layout::kGroupedK;
  const std::int64_t k_end = k_groups ? padded_end(part.k_end, k_) : part.k_end;
  for (std::int64_t row = part.first_row; row < part.end_row; ++row)
    for (std::int64_t k = part.k_begin; k < k_end; ++k) a_at(part, row, k) = code_a();
  for (std::int64_t col = 0; col < problem().n; ++col)
    for (std::int64_t k = part.k_begin; k < k_end; ++k) b_at(part, col, k) = code_b();
  for (std::int64_t block = part.k_begin / 128; block < jit::scale_blocks(part.k_end); ++block) {
    for (std::int64_t row = part.first_row; row < part.end_row; ++row)
      sfa_at(part, row, block) = scale();
    for (std::int64_t col = 0; col < problem().n; ++col) sfb_at(part, col, block) = scale();
  }
  if (k_end > part.k_end) zero_tail(part, part.d_slice % 2 == 0);
}

void GroupedGemm::zero_tail(const Part& part, bool of_a) {
  const std::int64_t end = padded_end(part.k_end, k_), rows = of_a ? m_ : problem().n;
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t k = part.k_end; k < end; ++k)
      (of_a ? a_at(part, row, k) : b_at(part, row, k)) = 0;
}

void GroupedGemm::spoil_a(std::size_t number, std::int64_t row, std::int64_t k, std::uint8_t code) {
  const Part& part = parts_.at(number);
  a_at(part, part.first_row + row, part.k_begin + k) = code;
}

void GroupedGemm::spoil_b(std::size_t number, std::int64_t col, std::int64_t k, std::uint8_t code) {
  const Part& part = parts_.at(number);
  b_at(part, col, part.k_begin + k) = code;
}

void GroupedGemm::spoil_sfa(std::size_t number, std::int64_t row, std::int64_t block, float scale) {
  const Part& part = parts_.at(number);
  sfa_at(part, part.first_row + row, part.k_begin / 128 + block) = scale;
}

void GroupedGemm::spoil_sfb(std::size_t number, std::int64_t col, std::int64_t block, float scale) {
  const Part& part = parts_.at(number);
  sfb_at(part, col, part.k_begin / 128 + block) = scale;
}

// ---- results ----

void GroupedGemm::download() {
  gpu_.synchronize();
  d16_.from_device();
  d32_.from_device();
}

const std::vector<std::byte>& GroupedGemm::output_bytes() {
  download();
  return is_bf16() ? d16_.bytes() : d32_.bytes();
}

bool GroupedGemm::nothing_written_outside() {
  download();
  const std::int64_t rows = std::max(d16_.rows(), d32_.rows());
  for (std::int64_t row = 0; row < rows; ++row)
    if (row % (m_ + 1) != m_)
      for (std::int64_t col = 0; col < problem().n; ++col) take_result(row, col);
  return d16_.is_all_poison() && d32_.is_all_poison();
}

double GroupedGemm::take_result(std::int64_t row, std::int64_t col) {
  const double value = is_bf16() ? bf16_to_float(d16_.at(row, col)) : d32_.at(row, col);
  if (is_bf16())
    d16_.poison(row, col);
  else
    d32_.poison(row, col);
  return value;
}

std::vector<double> GroupedGemm::products(const Part& part, bool magnitudes) {
  const auto size = [](std::int64_t value) { return static_cast<std::size_t>(value); };
  const std::size_t rows = size(part.end_row - part.first_row),
                    depth = size(part.k_end - part.k_begin), n = size(problem().n);
  const std::array<double, 256>&value_a = decoded(problem().a), &value_b = decoded(problem().b);
  std::vector<double> a(depth), b(depth * n), sums(rows * n);
  const auto sign_free = [&](double value) { return magnitudes ? std::fabs(value) : value; };
  for (std::size_t col = 0; col < n; ++col) {
    for (std::size_t i = 0; i < depth; ++i) {
      const auto c = static_cast<std::int64_t>(col),
                 k = part.k_begin + static_cast<std::int64_t>(i);
      b[i * n + col] = sign_free(value_b[b_at(part, c, k)]) * sfb_at(part, c, k / 128);
    }
  }
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t i = 0; i < depth; ++i) {
      const auto r = part.first_row + static_cast<std::int64_t>(row);
      const std::int64_t k = part.k_begin + static_cast<std::int64_t>(i);
      a[i] = sign_free(value_a[a_at(part, r, k)]) * sfa_at(part, r, k / 128);
    }
    double* const sum = sums.data() + row * n;
    for (std::size_t i = 0; i < depth; ++i)
      for (std::size_t col = 0; col < n; ++col) sum[col] += a[i] * b[i * n + col];
  }
  return sums;
}

std::string GroupedGemm::defect(int times) {
  download();
  std::ostringstream text;
  std::int64_t wrong = 0;
  double xx = 0, yy = 0, xy = 0;
  for (const Part& part : parts_) {
    const std::vector<double> sums = products(part, false);
    const std::vector<double> magnitudes = exact_ ? sums : products(part, true);
    std::size_t i = 0;
    for (std::int64_t row = part.first_row; row < part.end_row; ++row) {
      for (std::int64_t col = 0; col < problem().n; ++col, ++i) {
        const double c = problem().accumulate ? c_.at(d_row(part, row), col) : 0;
        const double x = c + times * sums[i], y = take_result(d_row(part, row), col);
        const auto once = static_cast<float>(x);
        // The tensor core truncates each partial sum to about 13 bits behind the largest product;
        // BF16 rounds once more to 8 bits.
        const double bound = (std::fabs(c) + magnitudes[i]) * std::ldexp(1.0, -10) +
                             (is_bf16() ? std::fabs(x) * std::ldexp(1.0, -8) : 0);
        const bool good = std::isnan(x) ? std::isnan(y)
                          : exact_ ? y == (is_bf16() ? bf16_to_float(float_to_bf16(once)) : once)
                                   : std::fabs(x - y) <= bound;
        xx += x * x;
        yy += y * y;
        xy += x * y;
        if (good || ++wrong > 1) continue;
        text << "slice " << part.d_slice << " row " << row << " column " << col
             << " (its part: rows " << part.first_row << ".." << part.end_row << ", K "
             << part.k_begin << ".." << part.k_end << "): got " << y << ", expected " << x << "; ";
      }
    }
  }
  if (wrong > 0) text << wrong << " wrong elements; ";
  if (!exact_ && xx + yy > 0 && !(1 - 2 * xy / (xx + yy) < 0.001))
    text << "difference " << 1 - 2 * xy / (xx + yy) << "; ";
  if (!d16_.is_all_poison() || !d32_.is_all_poison())
    text << "something was written that belongs to no group";
  return text.str();
}

// ---- whole checks ----

void check_exact(Gpu& gpu, const GroupedCase& test, std::int32_t num_sms) {
  INFO(describe(test));
  GroupedGemm gemm(gpu, test);
  gemm.fill_exact();
  gemm.upload();
  gemm.launch(0, num_sms);
  CHECK(gemm.defect() == "");
}

void check_random(Gpu& gpu, const GroupedCase& test) {
  INFO(describe(test));
  GroupedGemm gemm(gpu, test);
  gemm.fill_random();
  gemm.upload();
  gemm.launch();
  CHECK(gemm.defect() == "");
}

void check_tiles(Gpu& gpu, GroupedCase test, std::size_t at_most) {
  jit::Problem problem = test.problem;
  problem.groups = static_cast<std::int32_t>(test.sizes.size());
  const std::vector<jit::Tile> tiles = jit::legal_tiles(problem);
  REQUIRE_FALSE(tiles.empty());
  // An odd step, for the menu's fastest axis is the kind of cluster.
  const std::size_t step = tiles.size() > at_most ? tiles.size() / at_most | 1 : 1;
  for (std::size_t i = 0; i < tiles.size(); i += step) {
    test.tile = tiles[i];
    check_exact(gpu, test);
  }
}

void check_broken_contract(GroupedGemm& gemm, const std::vector<std::int32_t>& grouping,
                           const std::vector<std::int32_t>& experts) {
  gemm.reset_output();
  gemm.set_grouping(grouping);
  gemm.set_experts(experts);
  gemm.launch();
  CHECK(gemm.nothing_written_outside());
}

}  // namespace kiln::test
