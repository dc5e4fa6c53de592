// NaN, infinities and zeros in every operand of every layout on a real GPU: they reach what they
// belong to and nothing else. All padding is NaN throughout (see PaddedMatrix and GroupedGemm).
#include <fmt/format.h>

#include <functional>
#include <limits>
#include <utility>

#include "tests/runtime/gpu_grouped_support.h"
#include "tests/support/gate.h"

namespace kiln::test {
namespace {

constexpr std::uint8_t kE5m2Infinity = 0x7c, kNegative = 0x80;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct DenseSpoiling {
  const char* what;
  bool needs_infinity;  // a format of A that has one
  std::function<void(GemmData&)> apply;
};

float& scale_of_row(GemmData& g, bool m_major, std::int64_t row, std::int64_t block) {
  return m_major ? g.sfa.at(block, row) : g.sfa.at(row, block);
}

std::vector<DenseSpoiling> dense_spoilings(bool m_major) {
  return {
      {"NaN in A", false, [](GemmData& g) { g.a.at(70, 399) = kFp8NaN; }},
      {"NaN in B", false, [](GemmData& g) { g.b.at(77, 0) = kFp8NaN; }},
      {"infinity in A", true, [](GemmData& g) { g.a.at(129, 130) = kE5m2Infinity; }},
      {"-infinity in A", true, [](GemmData& g) { g.a.at(0, 1) = kE5m2Infinity | kNegative; }},
      {"NaN in SFA", false, [=](GemmData& g) { scale_of_row(g, m_major, 64, 3) = kNaN; }},
      {"infinity in SFA", false, [=](GemmData& g) { scale_of_row(g, m_major, 1, 0) = kInfinity; }},
      {"NaN in SFB", false, [](GemmData& g) { g.sfb.at(1, 2) = kNaN; }},
      {"zeros of both signs", false,
       [](GemmData& g) {
         for (std::int64_t row = 0; row < g.a.rows(); ++row)
           for (std::int64_t k = 0; k < g.a.cols(); ++k)
             g.a.at(row, k) = k % 2 != 0 ? kNegative : 0;
       }},
      {"scales of zero", false,
       [=](GemmData& g) {
         for (std::int64_t block = 0; block < 4; ++block) scale_of_row(g, m_major, 5, block) = 0;
       }},
  };
}

int check_dense(Gpu& gpu, jit::Problem problem) {
  problem.n = 136;
  problem.k = 400;
  int cases = 0;
  for (const DenseSpoiling& spoiling : dense_spoilings(problem.sfa_major == jit::ScaleMajor::kM)) {
    if (spoiling.needs_infinity && !format_of(problem.a).has_infinity) continue;
    INFO(spoiling.what << ": " << jit::describe(problem));
    GemmData data(gpu, {problem, 130});
    data.fill_exact();
    spoiling.apply(data);
    data.upload();
    data.launch();
    CHECK(data.download());
    CHECK(data.mismatches() == 0);
    ++cases;
  }
  return cases;
}

struct GroupedSpoiling {
  const char* what;
  bool needs_infinity;
  std::function<void(GroupedGemm&)> apply;
};

// In the third group with rows, or of K: it is neither the first nor the last of any case here.
std::vector<GroupedSpoiling> grouped_spoilings(bool one_group) {
  const std::size_t group = one_group ? 0 : 2;
  return {
      {"NaN in A", false, [=](GroupedGemm& g) { g.spoil_a(group, 1, 5, kFp8NaN); }},
      {"NaN in B", false, [=](GroupedGemm& g) { g.spoil_b(group, 77, 0, kFp8NaN); }},
      {"infinity in A", true, [=](GroupedGemm& g) { g.spoil_a(group, 0, 100, kE5m2Infinity); }},
      {"NaN in SFA", false, [=](GroupedGemm& g) { g.spoil_sfa(group, 2, 0, kNaN); }},
      {"NaN in SFB", false, [=](GroupedGemm& g) { g.spoil_sfb(group, 130, 0, kNaN); }},
      {"zero in SFA", false, [=](GroupedGemm& g) { g.spoil_sfa(group, 3, 0, 0); }},
  };
}

int check_grouped(Gpu& gpu, const GroupedCase& test) {
  int cases = 0;
  for (const GroupedSpoiling& spoiling : grouped_spoilings(test.sizes.size() == 1)) {
    if (spoiling.needs_infinity && !format_of(test.problem.a).has_infinity) continue;
    INFO(spoiling.what << ": " << describe(test));
    GroupedGemm gemm(gpu, test);
    gemm.fill_exact();
    spoiling.apply(gemm);
    gemm.upload();
    gemm.launch();
    CHECK(gemm.defect() == "");
    ++cases;
  }
  return cases;
}

jit::Problem grouped(jit::Layout layout, jit::GroupForm form) {
  jit::Problem problem;
  problem.layout = layout;
  problem.group_form = form;
  problem.n = 136;
  problem.k = 272;
  problem.a = jit::Fp8Type::kE5m2;
  if (layout == jit::Layout::kGroupedContiguous) problem.alignment = 1;
  if (layout == jit::Layout::kGroupedK || layout == jit::Layout::kDense) {
    problem.scaling = jit::Scaling::k1d1d;
    problem.sfa_major = jit::ScaleMajor::kM;
    problem.out = jit::OutputType::kF32;
  }
  return problem;
}

}  // namespace

TEST_CASE("NaN, infinities and zeros of a dense GEMM reach their row or column alone",
          "[gpu][numerics]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  int cases = 0;
  for (const auto type : {jit::Fp8Type::kE4m3, jit::Fp8Type::kE5m2}) {
    for (const auto major : {jit::ScaleMajor::kRow, jit::ScaleMajor::kM}) {
      jit::Problem problem;
      problem.a = type;
      problem.sfa_major = major;
      cases += check_dense(gpu, problem);
      problem.out = jit::OutputType::kF32;
      problem.accumulate = true;
      cases += check_dense(gpu, problem);
    }
  }
  report_figures(fmt::format("dense: {} cases of NaN, infinity and zero", cases));
}

TEST_CASE("NaN, infinities and zeros of a group reach their row or column of that group alone",
          "[gpu][numerics]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  using jit::GroupForm;
  using jit::Layout;
  const std::vector<std::int32_t> rows{65, 0, 130, 7, 100}, k{256, 0, 384, 128};
  int cases = 0;
  for (const GroupForm form : {GroupForm::kLabels, GroupForm::kEnds})
    cases +=
        check_grouped(gpu, {.problem = grouped(Layout::kGroupedContiguous, form), .sizes = rows});
  cases += check_grouped(
      gpu, {.problem = grouped(Layout::kGroupedMasked, GroupForm::kRows), .sizes = rows, .m = 140});
  for (const GroupForm form : {GroupForm::kEnds, GroupForm::kPacked})
    cases += check_grouped(gpu, {.problem = grouped(Layout::kGroupedK, form), .sizes = k, .m = 72});
  cases += check_grouped(
      gpu, {.problem = grouped(Layout::kDense, GroupForm::kNone), .sizes = {400}, .m = 72});
  report_figures(fmt::format("grouped layouts: {} cases of NaN, infinity and zero", cases));
}

}  // namespace kiln::test
