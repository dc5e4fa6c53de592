// What `kiln run` makes of a problem: sizes of groups, and where each group's operands lie.
#include "tools/workload.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "jit/error.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"
#include "tools/shapes.h"

using namespace kiln;
using namespace kiln::tools;

namespace {

std::int64_t sum(const std::vector<std::int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{0});
}

jit::Problem grouped(jit::Layout layout, std::int32_t groups, LayoutFields fields = {}) {
  jit::Problem problem;
  problem.layout = layout;
  problem.n = 264;  // no multiple of a scale block
  problem.k = layout == jit::Layout::kGroupedK ? 304 : 208;
  fields.groups = groups;
  set_layout_fields(fields, problem);
  return problem;
}

std::vector<jit::Problem> every_grouped_problem() {
  using jit::GroupForm;
  using jit::Layout;
  std::vector<jit::Problem> problems;
  for (const std::int32_t groups : {1, 3, 32, 257}) {
    for (const GroupForm form : {GroupForm::kLabels, GroupForm::kEnds}) {
      for (const std::int32_t alignment : {1, 64, 128}) {
        LayoutFields fields;
        fields.group_form = form;
        fields.alignment = alignment;
        fields.sfa_major = alignment == 64 ? jit::ScaleMajor::kM : jit::ScaleMajor::kRow;
        problems.push_back(grouped(Layout::kGroupedContiguous, groups, fields));
      }
    }
    problems.push_back(grouped(Layout::kGroupedMasked, groups));
    for (const GroupForm form : {GroupForm::kEnds, GroupForm::kPacked}) {
      LayoutFields fields;
      fields.group_form = form;
      problems.push_back(grouped(Layout::kGroupedK, groups, fields));
    }
  }
  return problems;
}

std::vector<Workload> every_workload() {
  std::vector<Workload> workloads;
  for (const jit::Problem& problem : every_grouped_problem()) {
    for (const Skew skew : {Skew::kUniform, Skew::kZipf}) {
      for (const std::int64_t m : {0, 1, 77, 300}) {
        if (kiln::test::kIsSanitized && m > 1 && (m == 300) != (skew == Skew::kZipf)) continue;
        workloads.push_back(make_workload(problem, {m, 0, skew, 7}));
      }
    }
  }
  return workloads;
}

std::string refusal(const jit::Problem& problem, const Sizing& sizing) {
  try {
    make_workload(problem, sizing);
    return "";
  } catch (const Error& error) {
    CHECK(error.status() == Status::kInvalidArgument);
    return error.what();
  }
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Marks the elements that a matrix has in its operand; false for one outside or marked already.
bool mark(std::vector<char>& marks, std::int64_t first, std::int64_t rows, std::int64_t columns,
          std::int64_t stride) {
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      const auto at = static_cast<std::size_t>(first + row * stride + column);
      if (at >= marks.size() || marks[at] != 0) return false;
      marks[at] = 1;
    }
  }
  return true;
}

}  // namespace

TEST_CASE("uniform sizes stay between 0.7 and 1.3 times the mean and come near both", "[cli]") {
  for (const std::int64_t mean : {0, 1, 2, 10, 128, 4096, 1'000'000}) {
    const SizeDraw draw{1024, mean, Skew::kUniform, 3};
    const std::vector<std::int64_t> sizes = draw_sizes(draw);
    REQUIRE(sizes.size() == 1024);
    const auto [low, high] = std::minmax_element(sizes.begin(), sizes.end());
    INFO(mean);
    CHECK(*low * 10 >= mean * 7);
    CHECK(*high * 10 <= mean * 13);
    CHECK(*high <= largest_size(draw));
    if (mean < 128) continue;
    CHECK(static_cast<double>(*low) < 0.71 * static_cast<double>(mean));
    CHECK(static_cast<double>(*high) > 1.29 * static_cast<double>(mean));
    CHECK(std::abs(static_cast<double>(sum(sizes)) / 1024 / static_cast<double>(mean) - 1) < 0.03);
  }
}

TEST_CASE("zipf sizes keep the total, with a few large groups and a quarter of them empty",
          "[cli]") {
  for (const std::int64_t groups : {1, 2, 3, 4, 6, 32, 256, 1024}) {
    for (const std::int64_t mean : {0, 1, 20, 4096}) {
      INFO(groups << " groups of " << mean);
      const SizeDraw draw{groups, mean, Skew::kZipf, 5};
      std::vector<std::int64_t> sizes = draw_sizes(draw);
      CHECK(sum(sizes) == groups * mean);
      std::sort(sizes.rbegin(), sizes.rend());
      CHECK(sizes.front() == largest_size(draw));
      CHECK(sizes.back() >= 0);
      if (mean < 4096) continue;
      CHECK(std::count(sizes.begin(), sizes.end(), 0) == groups / 4);
      if (groups < 32) continue;
      CHECK(sizes[0] > 5 * mean);
      for (std::size_t rank = 1; rank < 8; ++rank) {
        const double ratio = static_cast<double>(sizes[0]) / static_cast<double>(sizes[rank]);
        CHECK(std::abs(ratio - static_cast<double>(rank + 1)) < 0.2);
      }
    }
  }
}

TEST_CASE("sizes depend on the seed and on nothing else", "[cli]") {
  for (const Skew skew : {Skew::kUniform, Skew::kZipf}) {
    const std::vector<std::int64_t> first = draw_sizes({64, 500, skew, 1});
    CHECK(first == draw_sizes({64, 500, skew, 1}));
    CHECK(first != draw_sizes({64, 500, skew, 2}));
    CHECK_FALSE(std::is_sorted(first.begin(), first.end()));
    CHECK_FALSE(std::is_sorted(first.rbegin(), first.rend()));
  }
  // The same on every machine and with every standard library.
  CHECK(draw_sizes({8, 1000, Skew::kUniform, 1}) ==
        std::vector<std::int64_t>{796, 1008, 865, 845, 975, 764, 1071, 752});
  CHECK(draw_sizes({8, 1000, Skew::kZipf, 1}) ==
        std::vector<std::int64_t>{653, 0, 816, 544, 1632, 0, 1088, 3267});
  CHECK(parse_skew("zipf", "--skew") == Skew::kZipf);
  CHECK(name(parse_skew("uniform", "--skew")) == "uniform");
  CHECK_THROWS_AS(parse_skew("flat", "--skew"), Error);
}

TEST_CASE("groups are as large as drawn, aligned, in order, and inside the launch", "[cli]") {
  for (const Workload& w : every_workload()) {
    const jit::Problem& p = w.problem;
    INFO(jit::describe(p) << " m = " << w.m);
    REQUIRE(w.groups.size() == static_cast<std::size_t>(p.groups));
    const bool masked = p.layout == jit::Layout::kGroupedMasked;
    const std::int64_t unit = p.layout == jit::Layout::kGroupedK ? 128 : masked ? 1 : p.alignment;
    std::int64_t end = 0;
    for (const Range& group : w.groups) {
      CHECK(group.size() >= 0);
      CHECK(group.begin == (masked ? 0 : jit::ceil_div(end, unit) * unit));
      if (p.layout == jit::Layout::kGroupedK) CHECK(group.size() % 128 == 0);
      end = group.end;
      CHECK(end <= (p.layout == jit::Layout::kGroupedK ? w.k : w.m));
    }
    if (masked) {
      CHECK(w.m % 128 == 0);
      CHECK(w.plan_m >= 1);
      CHECK(w.plan_m <= w.m);
    } else {
      CHECK(w.plan_m == w.m);
    }
    if (p.layout == jit::Layout::kGroupedContiguous) CHECK(w.m == jit::ceil_div(end, unit) * unit);
    if (p.layout == jit::Layout::kGroupedK) CHECK(w.k == end);
  }
}

TEST_CASE("the products of a launch touch every element of a group once and no other", "[cli]") {
  for (const Workload& w : every_workload()) {
    const jit::Problem& p = w.problem;
    if (p.groups > 32) continue;
    INFO(jit::describe(p) << " m = " << w.m << " k = " << w.k);
    const OperandSizes sizes = operand_sizes(w);
    const auto room = [](double elements) {
      return std::vector<char>(static_cast<std::size_t>(elements));
    };
    std::vector<char> a = room(sizes.a), b = room(sizes.b), d = room(sizes.d);
    std::vector<char> sfa = room(sizes.sfa), sfb = room(sizes.sfb);
    double widest = 0;
    for (const Product& part : products(w)) {
      const std::int64_t blocks = jit::scale_blocks(part.k);
      REQUIRE(mark(a, part.a, part.m, part.k, part.lda));
      REQUIRE(mark(b, part.b, p.n, part.k, part.ldb));
      REQUIRE(mark(d, part.d, part.m, p.n, p.n));
      if (p.sfa_major == jit::ScaleMajor::kRow) {
        REQUIRE(mark(sfa, part.sfa, part.m, blocks, w.ld_sfa));
      } else {
        REQUIRE(mark(sfa, part.sfa, blocks, part.m, w.ld_sfa));
      }
      if (p.scaling == jit::Scaling::k1d1d) {
        REQUIRE(mark(sfb, part.sfb, blocks, p.n, w.ld_sfb));
      } else {
        REQUIRE(mark(sfb, part.sfb, jit::scale_blocks(p.n), blocks, w.ld_sfb));
      }
      widest = std::max(widest, static_cast<double>(std::max(part.m, p.n) * part.k));
    }
    CHECK(widest == sizes.widest_part);
    for (const Range& gap : rows_of_no_group(w)) {
      CHECK(gap.size() > 0);
      REQUIRE(mark(d, gap.begin * p.n, gap.size(), p.n, p.n));
    }
    CHECK(std::count(d.begin(), d.end(), 0) == 0);
    CHECK(std::count(b.begin(), b.end(), 0) == 0);
  }
}

TEST_CASE("a launch is told of the groups in the form of its plan", "[cli]") {
  for (const Workload& w : every_workload()) {
    INFO(jit::describe(w.problem));
    const std::vector<std::int32_t> told = grouping(w);
    if (w.problem.group_form == jit::GroupForm::kLabels) {
      REQUIRE(told.size() == static_cast<std::size_t>(w.m));
      std::vector<Range> seen(w.groups.size());
      for (std::size_t row = 0; row < told.size(); ++row) {
        if (told[row] == -1) continue;
        Range& range = seen.at(static_cast<std::size_t>(told[row]));
        if (range.size() == 0) range = {static_cast<std::int64_t>(row), static_cast<int>(row)};
        CHECK(range.end == static_cast<std::int64_t>(row));
        ++range.end;
      }
      for (std::size_t g = 0; g < seen.size(); ++g) {
        if (w.groups[g].size() > 0) CHECK(seen[g] == w.groups[g]);
        CHECK(seen[g].size() == w.groups[g].size());
      }
      continue;
    }
    REQUIRE(told.size() == w.groups.size());
    for (std::size_t g = 0; g < told.size(); ++g) {
      const bool ends = w.problem.group_form == jit::GroupForm::kEnds;
      CHECK(told[g] == (ends ? w.groups[g].end : w.groups[g].size()));
    }
  }
  jit::Problem dense;
  dense.n = dense.k = 128;
  CHECK(grouping(make_workload(dense, {5})).empty());
}

TEST_CASE("work and traffic count what the groups hold and no padding", "[cli]") {
  jit::Problem p = grouped(jit::Layout::kGroupedContiguous, 4);
  const Workload w = make_workload(p, {100, 0, Skew::kZipf, 1});  // one group of four is empty
  const double rows = 400, n = 264, k = 208;
  CHECK(flops(w) == 2 * rows * n * k);
  CHECK(moved_bytes(w) == rows * k + 3 * n * k + 4 * 2 * (rows + 3 * 3) + 2 * rows * n);

  p = grouped(jit::Layout::kGroupedK, 4);
  p.out = jit::OutputType::kF32;
  const Workload plain = make_workload(p, {40, 0, Skew::kZipf, 1});
  const double all_k = static_cast<double>(plain.k);
  CHECK(flops(plain) == 2 * 40 * n * all_k);
  const double read = (40 + n) * all_k + 4 * all_k / 128 * (40 + n);
  CHECK(moved_bytes(plain) == read + 4 * 4 * 40 * n);  // an empty group's D becomes zeros
  p.accumulate = true;
  const Workload added = make_workload(p, {40, 0, Skew::kZipf, 1});
  CHECK(moved_bytes(added) == read + 3 * 2 * 4 * 40 * n);  // ... and is left alone here
}

TEST_CASE("a workload that a launch cannot take is refused with a remedy", "[cli]") {
  const jit::Problem masked = grouped(jit::Layout::kGroupedMasked, 8);
  CHECK(make_workload(masked, {100, 130}).m == 130);
  CHECK(contains(refusal(masked, {100, 129}), "--max-m must be at least 130"));
  CHECK(make_workload(masked, {100, 4096}).m == 4096);
  for (const jit::Layout layout :
       {jit::Layout::kGroupedContiguous, jit::Layout::kGroupedMasked, jit::Layout::kGroupedK}) {
    jit::Problem p = grouped(layout, 1024);
    if (layout == jit::Layout::kGroupedK) p.k = 2147483136;
    INFO(jit::name(layout));
    CHECK(contains(refusal(p, {jit::kMaxM}), "use fewer or smaller groups"));
  }
  jit::Problem invalid = grouped(jit::Layout::kGroupedContiguous, 8);
  invalid.alignment = 0;
  CHECK(contains(refusal(invalid, {1}), "alignment must be a power of two"));
}

TEST_CASE("the M that chooses a tile is all rows, or the expected rows of one group", "[cli]") {
  LayoutFields fields;
  fields.alignment = 64;
  CHECK(mean_plan_m(grouped(jit::Layout::kGroupedContiguous, 8, fields), 100) == 1024);
  CHECK(mean_plan_m(grouped(jit::Layout::kGroupedMasked, 8), 100) == 100);
  CHECK(mean_plan_m(grouped(jit::Layout::kGroupedMasked, 8), 0) == 1);
  CHECK(mean_plan_m(grouped(jit::Layout::kGroupedK, 8), 100) == 100);
  CHECK_THROWS_AS(mean_plan_m(grouped(jit::Layout::kGroupedContiguous, 1024), jit::kMaxM), Error);
}
