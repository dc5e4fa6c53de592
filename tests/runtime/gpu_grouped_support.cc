#include "tests/runtime/gpu_grouped_support.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <sstream>

namespace kiln::test {
namespace {

std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return jit::ceil_div(value, unit) * unit;
}
std::int64_t pad(std::int64_t value, std::int64_t unit) { return round_up(value, unit) + unit; }

bool is_packed(const jit::Problem& p) { return p.group_form == jit::GroupForm::kPacked; }

}  // namespace

std::string describe(const GroupedCase& test) {
  jit::Problem problem = test.problem;
  problem.groups = static_cast<std::int32_t>(test.sizes.size());
  std::ostringstream text;
  text << jit::describe(problem) << " m=" << test.m << " sizes=[";
  for (std::size_t g = 0; g < std::min<std::size_t>(test.sizes.size(), 16); ++g)
    text << (g == 0 ? "" : ",") << test.sizes[g];
  text << (test.sizes.size() > 16 ? ",...]" : "]");
  if (test.tile) text << " tile " << jit::describe(*test.tile);
  return text.str();
}

// ---- shapes and memory ----

GroupedGemm::GroupedGemm(Gpu& gpu, const GroupedCase& test, kiln_engine* engine)
    : gpu_(gpu),
      test_(test),
      engine_(engine == nullptr ? gpu.handle() : engine),
      random_(test.seed),
      a_(0, 0, 0),
      b_(0, 0, 0),
      sfa_(0, 0, 0),
      sfb_(0, 0, 0),
      d16_(0, 0, 0),
      d32_(0, 0, 0),
      c_(0, 0, 0),
      grouping_(0, 0, 0),
      experts_(0, 0, 0) {
  test_.problem.groups = static_cast<std::int32_t>(test.sizes.size());
  divide();
  const bool masked = problem().layout == jit::Layout::kGroupedMasked;
  const std::int64_t a_slices = masked ? problem().groups : 1, n = problem().n;
  const std::int64_t blocks = jit::scale_blocks(k_), d_slices = is_1d1d() || masked ? slices() : 1;
  const std::int64_t d_rows = (masked ? a_slices : d_slices) * (m_ + 1);

  if (is_packed(problem())) {
    a_ = {1, m_ * k_, m_ * k_};
    b_ = {1, n * k_, n * k_};
  } else {
    a_ = {a_slices * (m_ + 1), k_, pad(k_, 16)};
    b_ = {is_1d1d() ? n : slices() * (n + 1), k_, pad(k_, 16)};
  }
  if (problem().sfa_major == jit::ScaleMajor::kRow)
    sfa_ = {a_slices * (m_ + 1), blocks, blocks + 1};
  else
    sfa_ = {a_slices * (blocks + 1), m_, pad(m_, 4)};
  if (is_1d1d())
    sfb_ = {blocks, n, pad(n, 4)};
  else
    sfb_ = {slices() * (jit::scale_blocks(n) + 1), blocks, blocks + 1};
  if (is_bf16())
    d16_ = {d_rows, n, pad(n, 8)};
  else
    d32_ = {d_rows, n, pad(n, 4)};
  if (problem().accumulate) c_ = {d_rows, n, n};
  grouping_ = {1, std::ssize(grouping_values_), std::ssize(grouping_values_)};
  std::copy(grouping_values_.begin(), grouping_values_.end(), &grouping_.at(0, 0));
  experts_ = {1, std::ssize(test.experts), std::ssize(test.experts)};
  std::copy(test.experts.begin(), test.experts.end(), &experts_.at(0, 0));
}

GroupedGemm::~GroupedGemm() { kiln_plan_destroy(plan_); }

std::int64_t GroupedGemm::slices() const {
  return test_.num_slices > 0 ? test_.num_slices : problem().groups;
}

std::int64_t GroupedGemm::expert_of(std::size_t group) const {
  return test_.experts.empty() ? static_cast<std::int64_t>(group) : test_.experts[group];
}

void GroupedGemm::divide() {
  parts_.clear();
  grouping_values_.clear();
  if (is_1d1d())
    divide_k();
  else
    divide_rows();
}

void GroupedGemm::divide_rows() {
  k_ = problem().k;
  const bool masked = problem().layout == jit::Layout::kGroupedMasked;
  std::int64_t end = 0;
  std::vector<std::int32_t> labels, ends;
  for (std::size_t g = 0; g < test_.sizes.size(); ++g) {
    const std::int64_t size = test_.sizes[g];
    if (masked) {
      const auto slice = static_cast<std::int64_t>(g);
      if (size > 0) parts_.push_back({slice, 0, size, slice, expert_of(g), 0, k_});
      continue;
    }
    std::int64_t begin = round_up(end, problem().alignment);
    if (!test_.gaps.empty()) begin += std::int64_t{test_.gaps[g]} * problem().alignment;
    if (size > 0) {
      end = begin + size;
      parts_.push_back({0, begin, end, 0, expert_of(g), 0, k_});
      labels.resize(static_cast<std::size_t>(begin), -1);
      labels.resize(static_cast<std::size_t>(end), static_cast<std::int32_t>(g));
    }
    // An empty group may end where the one before does, or where it would have begun.
    ends.push_back(static_cast<std::int32_t>(size == 0 && g % 2 == 1 ? begin : end));
  }
  if (masked) {
    m_ = test_.m;
    grouping_values_ = test_.sizes;
    return;
  }
  m_ = std::max(m_, round_up(end + test_.slack, problem().alignment));
  labels.resize(static_cast<std::size_t>(m_), -1);
  for (std::int32_t& value : ends)
    if (value > m_) value = static_cast<std::int32_t>(end);
  grouping_values_ = problem().group_form == jit::GroupForm::kLabels ? labels : ends;
  if (test_.zero_padding) add_padding_parts();
}

// Rows of no group, as parts without products.
void GroupedGemm::add_padding_parts() {
  std::int64_t end = 0;
  std::vector<Part> padding;
  for (const Part& part : parts_) {
    if (part.first_row > end) padding.push_back({0, end, part.first_row, 0, 0, 0, 0});
    end = part.end_row;
  }
  if (m_ > end) padding.push_back({0, end, m_, 0, 0, 0, 0});
  parts_.insert(parts_.end(), padding.begin(), padding.end());
}

void GroupedGemm::divide_k() {
  m_ = test_.m;
  std::int64_t end = 0;
  for (std::size_t g = 0; g < test_.sizes.size(); ++g) {
    const std::int64_t begin = round_up(end, jit::kScaleBlock), size = test_.sizes[g];
    if (size > 0) end = begin + size;
    parts_.push_back({expert_of(g), 0, m_, 0, 0, begin, begin + size});
    if (problem().group_form == jit::GroupForm::kEnds)
      grouping_values_.push_back(static_cast<std::int32_t>(size == 0 && g % 2 == 1 ? begin : end));
  }
  k_ = std::max(k_, round_up(end + test_.slack, 16));
  for (std::int32_t& value : grouping_values_)
    if (value > k_) value = static_cast<std::int32_t>(end);
}

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
  const std::int64_t k_end =
      k_groups ? std::min(round_up(part.k_end, jit::kScaleBlock), k_) : part.k_end;
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
  const std::int64_t end = std::min(round_up(part.k_end, jit::kScaleBlock), k_);
  const std::int64_t rows = of_a ? m_ : problem().n;
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t k = part.k_end; k < end; ++k)
      (of_a ? a_at(part, row, k) : b_at(part, row, k)) = 0;
}

// ---- launching ----

void GroupedGemm::upload() {
  a_.to_device(gpu_.device());
  b_.to_device(gpu_.device());
  sfa_.to_device(gpu_.device());
  sfb_.to_device(gpu_.device());
  grouping_.to_device(gpu_.device());
  experts_.to_device(gpu_.device());
  reset_output();
}

void GroupedGemm::reset_output() {
  d16_.poison_all();
  d32_.poison_all();
  if (problem().accumulate) {
    for (const Part& part : parts_) {
      for (std::int64_t row = part.first_row; row < part.end_row; ++row) {
        for (std::int64_t col = 0; col < problem().n; ++col) {
          const std::int64_t at = d_row(part, row);
          if (is_bf16())
            d16_.at(at, col) = float_to_bf16(c_.at(at, col));
          else
            d32_.at(at, col) = c_.at(at, col);
        }
      }
    }
  }
  d16_.to_device(gpu_.device());
  d32_.to_device(gpu_.device());
}

kiln_plan* GroupedGemm::plan() {
  if (plan_ != nullptr) return plan_;
  const kiln_problem wanted = c_problem(problem());
  const kiln_tile tile = c_tile(test_.tile.value_or(jit::Tile{}));
  KILN_CHECK_OK(kiln_plan_create(engine_, &wanted, test_.tile ? &tile : nullptr, &plan_));
  return plan_;
}

kiln_operands GroupedGemm::operands(std::uint32_t flags, std::int32_t num_sms) const {
  const bool masked = problem().layout == jit::Layout::kGroupedMasked;
  kiln_operands o = KILN_OPERANDS_INIT;
  o.m = m_;
  o.k = is_1d1d() ? k_ : -1;
  o.a = a_.device_data();
  o.lda = is_packed(problem()) ? 0 : a_.stride();
  o.b = b_.device_data();
  o.ldb = is_packed(problem()) ? 0 : b_.stride();
  o.sfa = sfa_.device_data();
  o.ld_sfa = sfa_.stride();
  o.sfb = sfb_.device_data();
  o.ld_sfb = sfb_.stride();
  o.d = is_bf16() ? static_cast<void*>(d16_.device_data()) : d32_.device_data();
  o.ldd = is_bf16() ? d16_.stride() : d32_.stride();
  o.num_sms = num_sms;
  o.flags = flags | (test_.zero_padding ? static_cast<std::uint32_t>(KILN_LAUNCH_ZERO_PADDING) : 0);
  if (!jit::is_grouped(problem())) return o;
  if (is_packed(problem()))
    o.host_group_k = test_.sizes.data();
  else
    o.grouping = grouping_.device_data();
  if (!test_.experts.empty()) o.expert_map = experts_.device_data();
  o.num_slices = test_.num_slices;
  if (!is_1d1d()) {
    o.b_group_stride = (problem().n + 1) * b_.stride();
    o.sfb_group_stride = (jit::scale_blocks(problem().n) + 1) * sfb_.stride();
  }
  if (masked) {
    const std::int64_t total = std::accumulate(test_.sizes.begin(), test_.sizes.end(), 0ll);
    o.expected_m = std::clamp<std::int64_t>(total / problem().groups, 1, m_);
    o.a_group_stride = (m_ + 1) * a_.stride();
    const bool row_major = problem().sfa_major == jit::ScaleMajor::kRow;
    o.sfa_group_stride = ((row_major ? m_ : jit::scale_blocks(k_)) + 1) * sfa_.stride();
  }
  if (masked || is_1d1d()) o.d_group_stride = (m_ + 1) * o.ldd;
  return o;
}

void GroupedGemm::launch(std::uint32_t flags, std::int32_t num_sms) {
  const kiln_operands o = operands(flags, num_sms);
  KILN_CHECK_OK(kiln_launch(plan(), &o, gpu_.stream()));
}

void GroupedGemm::regroup(const std::vector<std::int32_t>& sizes) {
  const std::int64_t m = m_, k = k_;
  REQUIRE(test_.fill_all);
  REQUIRE(sizes.size() == test_.sizes.size());
  test_.sizes = sizes;
  divide();
  REQUIRE((m_ == m && k_ == k));  // they fit into what the operands were made for
  set_grouping(grouping_values_);
}

void GroupedGemm::set_grouping(const std::vector<std::int32_t>& values) {
  REQUIRE(std::ssize(values) == grouping_.cols());
  std::copy(values.begin(), values.end(), &grouping_.at(0, 0));
  grouping_.to_device(gpu_.device());
}

void GroupedGemm::set_experts(const std::vector<std::int32_t>& values) {
  REQUIRE(std::ssize(values) == experts_.cols());
  std::copy(values.begin(), values.end(), &experts_.at(0, 0));
  experts_.to_device(gpu_.device());
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
        const bool good = exact_ ? y == (is_bf16() ? bf16_to_float(float_to_bf16(once)) : once)
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
