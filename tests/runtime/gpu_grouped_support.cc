#include "tests/runtime/gpu_grouped_support.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <sstream>

namespace kiln::test {
namespace {

std::int64_t pad(std::int64_t value, std::int64_t unit) {
  return jit::round_up(value, unit) + unit;
}

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
      random_(test.seed) {
  test_.problem.groups = static_cast<std::int32_t>(test.sizes.size());
  divide();
  const bool masked = problem().layout == jit::Layout::kGroupedMasked;
  const std::int64_t a_slices = masked ? problem().groups : 1, n = problem().n;
  const std::int64_t blocks = jit::scale_blocks(k_);
  const std::int64_t d_rows = (is_1d1d() ? slices() : a_slices) * (m_ + 1);

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
    std::int64_t begin = jit::round_up(end, problem().alignment);
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
  m_ = std::max(m_, jit::round_up(end + test_.slack, problem().alignment));
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
    const std::int64_t begin = jit::round_up(end, jit::kScaleBlock), size = test_.sizes[g];
    if (size > 0) end = begin + size;
    parts_.push_back({expert_of(g), 0, m_, 0, 0, begin, begin + size});
    if (problem().group_form == jit::GroupForm::kEnds)
      grouping_values_.push_back(static_cast<std::int32_t>(size == 0 && g % 2 == 1 ? begin : end));
  }
  k_ = std::max(k_, jit::round_up(end + test_.slack, 16));
  for (std::int32_t& value : grouping_values_)
    if (value > k_) value = static_cast<std::int32_t>(end);
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
  const kiln_tile tile = runtime::to_c(test_.tile.value_or(jit::Tile{}));
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

}  // namespace kiln::test
