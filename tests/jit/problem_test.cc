#include "jit/problem.h"

#include <limits>
#include <set>
#include <string>

#include "jit/error.h"
#include "tests/support/catch.h"

using namespace kiln;
using namespace kiln::jit;

namespace {

Problem good() { return {.n = 7168, .k = 2048}; }

// A good problem of each layout.
Problem good(Layout layout) {
  Problem p = good();
  p.layout = layout;
  p.group_form = default_group_form(layout);
  if (layout != Layout::kDense) p.groups = 32;
  if (layout == Layout::kGroupedContiguous) p.alignment = 128;
  if (layout == Layout::kGroupedK) {
    p.scaling = Scaling::k1d1d;
    p.sfa_major = ScaleMajor::kM;
  }
  return p;
}

Problem weight_gradient() {
  Problem p = good();
  p.scaling = Scaling::k1d1d;
  p.sfa_major = ScaleMajor::kM;
  p.out = OutputType::kF32;
  p.accumulate = true;
  return p;
}

constexpr Layout kLayouts[] = {Layout::kDense, Layout::kGroupedContiguous, Layout::kGroupedMasked,
                               Layout::kGroupedK};
constexpr GroupForm kForms[] = {GroupForm::kNone, GroupForm::kLabels, GroupForm::kEnds,
                                GroupForm::kRows, GroupForm::kPacked};

// The message of validate(), empty when the problem is good.
std::string complaint(const Problem& problem) {
  try {
    validate(problem);
    return {};
  } catch (const Error& error) {
    CHECK(error.status() == Status::kInvalidArgument);
    return error.what();
  }
}

bool mentions(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words)
    if (text.find(word) == std::string::npos) return false;
  return true;
}

}  // namespace

TEST_CASE("problems of real models are valid, down to the smallest sizes", "[problem]") {
  CHECK(complaint(good()).empty());
  for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{8, 16},
                             {576, 7168},
                             {2112, 7168},
                             {7168, 576},
                             {73728, 36864},
                             {36864, 128}}) {
    Problem p = good();
    p.n = n;
    p.k = k;
    CHECK(complaint(p).empty());
  }
}

TEST_CASE("a bad n or k is named with its value, the rule and the size to pad to", "[problem]") {
  Problem p = good();
  p.k = 1000;
  CHECK(mentions(complaint(p), {"k must be a multiple of 16", "got 1000", "1008"}));
  p = good();
  p.n = 7;
  CHECK(mentions(complaint(p), {"n must be a multiple of 8", "got 7", "to 8"}));
  for (const std::int64_t bad :
       {std::int64_t{0}, std::int64_t{-8}, std::int64_t{1} << 31,
        std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min()}) {
    p = good();
    p.n = bad;
    CHECK(mentions(complaint(p), {"n must be in 8..", std::to_string(bad).c_str()}));
    p = good();
    p.k = bad;
    CHECK(mentions(complaint(p), {"k must be in 16..", std::to_string(bad).c_str()}));
  }
}

TEST_CASE("every layout has good problems, with every output and accumulation", "[problem]") {
  for (const Layout layout : kLayouts) {
    for (const OutputType out : {OutputType::kBf16, OutputType::kF32}) {
      for (const bool accumulate : {false, true}) {
        Problem p = good(layout);
        p.out = out;
        p.accumulate = accumulate;
        INFO(describe(p));
        CHECK(complaint(p).empty());
      }
    }
  }
  CHECK(complaint(weight_gradient()).empty());
}

TEST_CASE("each layout takes its own scalings and says why not the other", "[problem]") {
  for (const Layout layout : {Layout::kGroupedContiguous, Layout::kGroupedMasked}) {
    Problem p = good(layout);
    p.scaling = Scaling::k1d1d;
    p.sfa_major = ScaleMajor::kM;
    CHECK(mentions(complaint(p), {"scaling must be 1d2d", "128x128", "got 1d1d"}));
  }
  Problem p = good(Layout::kGroupedK);
  p.scaling = Scaling::k1d2d;
  CHECK(mentions(complaint(p), {"scaling must be 1d1d", "grouped_k", "got 1d2d"}));
}

TEST_CASE("1d1d takes M-major scales only", "[problem]") {
  for (Problem p : {weight_gradient(), good(Layout::kGroupedK)}) {
    p.sfa_major = ScaleMajor::kRow;
    CHECK(mentions(complaint(p), {"sfa_major must be m", "1d1d", "got row", "cast"}));
  }
}

TEST_CASE("each layout takes its own forms of groups, and no other", "[problem]") {
  for (const Layout layout : kLayouts) {
    for (const GroupForm form : kForms) {
      const bool takes = form == default_group_form(layout) ||
                         (layout == Layout::kGroupedContiguous && form == GroupForm::kLabels) ||
                         (layout == Layout::kGroupedK && form == GroupForm::kPacked);
      Problem p = good(layout);
      p.group_form = form;
      INFO(describe(p));
      if (takes)
        CHECK(complaint(p).empty());
      else
        CHECK(mentions(complaint(p), {"group_form must be", std::string(name(layout)).c_str(),
                                      std::string(name(default_group_form(layout))).c_str(),
                                      ("got " + std::string(name(form))).c_str()}));
    }
  }
}

TEST_CASE("the number of groups is 1 for dense and within bounds otherwise", "[problem]") {
  Problem p = good();
  p.groups = 2;
  CHECK(mentions(complaint(p), {"groups must be 1", "dense", "got 2"}));
  for (const Layout layout :
       {Layout::kGroupedContiguous, Layout::kGroupedMasked, Layout::kGroupedK}) {
    p = good(layout);
    for (const std::int32_t groups : {1, 5, 64, 65, kMaxGroups}) {
      p.groups = groups;
      CHECK(complaint(p).empty());
    }
    for (const std::int32_t groups :
         {0, -1, kMaxGroups + 1, std::numeric_limits<std::int32_t>::max(),
          std::numeric_limits<std::int32_t>::min()}) {
      p.groups = groups;
      CHECK(mentions(complaint(p),
                     {"groups must be in 1..1024", std::to_string(groups).c_str(), "split"}));
    }
  }
}

TEST_CASE("the alignment is a power of two for contiguous groups and 0 otherwise", "[problem]") {
  Problem p = good(Layout::kGroupedContiguous);
  for (std::int32_t alignment = 1; alignment <= kMaxAlignment; alignment *= 2) {
    p.alignment = alignment;
    CHECK(complaint(p).empty());
  }
  for (const std::int32_t alignment :
       {0, -1, -128, 3, 96, 2 * kMaxAlignment, std::numeric_limits<std::int32_t>::min()}) {
    p.alignment = alignment;
    CHECK(mentions(complaint(p), {"alignment must be a power of two in 1..1024",
                                  ("got " + std::to_string(alignment)).c_str()}));
  }
  for (const Layout layout : {Layout::kDense, Layout::kGroupedMasked, Layout::kGroupedK}) {
    p = good(layout);
    p.alignment = 128;
    CHECK(mentions(complaint(p), {"alignment must be 0", std::string(name(layout)).c_str(),
                                  "grouped_contiguous", "got 128"}));
  }
}

TEST_CASE("problems that differ only in what kernels take at run time share their kernels",
          "[problem]") {
  Problem p = good(Layout::kGroupedContiguous), other = p;
  other.alignment = 1;
  other.groups = 7;
  CHECK(canonical(p) == canonical(other));
  other.groups = 65;  // a larger table
  CHECK(canonical(p) != canonical(other));

  p = good(Layout::kGroupedK);
  other = p;
  p.k = kReduceFromK;
  other.groups = 500;
  other.k = 8 * kReduceFromK;
  CHECK(canonical(p) == canonical(other));
  p = other = weight_gradient();
  p.k = 16;
  other.k = kReduceFromK - 16;
  CHECK(canonical(p) == canonical(other));
  p.accumulate = other.accumulate = true;
  p.out = other.out = OutputType::kF32;
  CHECK(canonical(p) == canonical(other));
  other.k = kReduceFromK;  // accumulates in another way
  CHECK(canonical(p) != canonical(other));
  other.accumulate = p.accumulate = false;
  CHECK(canonical(p) == canonical(other));
  p = other = good();
  other.k = 1040;  // 1d2d: K is a constant of the kernel
  CHECK(canonical(p) != canonical(other));
}

TEST_CASE("the canonical problem is good, its own canonical form, and keeps all else",
          "[problem]") {
  for (const Layout layout : kLayouts) {
    for (const std::int32_t groups : {1, 64, 65, 256, 257, 1024}) {
      Problem p = good(layout);
      if (layout != Layout::kDense) p.groups = groups;
      const Problem c = canonical(p);
      INFO(describe(p));
      CHECK(complaint(c).empty());
      CHECK(canonical(c) == c);
      CHECK(group_capacity(c) == group_capacity(p));
      CHECK((!has_row_groups(p) || group_capacity(p) >= p.groups));
      Problem same = c;
      same.groups = p.groups;
      same.alignment = p.alignment;
      if (p.scaling == Scaling::k1d1d) same.k = p.k;
      CHECK(same == p);
    }
  }
  CHECK(canonical(good()) == good());
}

TEST_CASE("enumeration values outside their range are refused", "[problem]") {
  Problem p = good();
  p.a = static_cast<Fp8Type>(7);
  CHECK(mentions(complaint(p), {"a must be one of", "e4m3", "e5m2", "got 7"}));
  p = good();
  p.layout = static_cast<Layout>(9);
  CHECK(mentions(complaint(p), {"layout", "dense", "got 9"}));
  p = good();
  p.out = static_cast<OutputType>(5);
  CHECK(mentions(complaint(p), {"out", "bf16", "f32"}));
  p = good();
  p.scaling = static_cast<Scaling>(3);
  CHECK(mentions(complaint(p), {"scaling must be one of", "1d2d", "1d1d", "got 3"}));
  p = good();
  p.group_form = static_cast<GroupForm>(11);
  CHECK(mentions(complaint(p), {"group_form must be one of", "labels", "packed", "got 11"}));
}

TEST_CASE("names and their parsers are inverse, and a wrong word lists the right ones",
          "[problem]") {
  for (const Fp8Type type : {Fp8Type::kE4m3, Fp8Type::kE5m2})
    CHECK(parse_fp8_type(name(type), "--a") == type);
  for (const OutputType type : {OutputType::kBf16, OutputType::kF32})
    CHECK(parse_output_type(name(type), "--out") == type);
  for (const ScaleMajor major : {ScaleMajor::kRow, ScaleMajor::kM})
    CHECK(parse_scale_major(name(major), "--sfa") == major);
  for (const Layout layout : kLayouts) CHECK(parse_layout(name(layout), "layout") == layout);
  for (const Scaling scaling : {Scaling::k1d2d, Scaling::k1d1d})
    CHECK(parse_scaling(name(scaling), "scaling") == scaling);
  for (const GroupForm form : kForms) CHECK(parse_group_form(name(form), "--form") == form);
  CHECK_THROWS_WITH(parse_fp8_type("fp8", "problems[3].a"),
                    "problems[3].a must be one of e4m3, e5m2; got \"fp8\"");
}

TEST_CASE("the text of a problem tells any two problems apart", "[problem]") {
  std::set<std::string> texts;
  std::size_t count = 0;
  for (const Layout layout : kLayouts) {
    const auto add = [&](auto change) {
      Problem p = good(layout);
      change(p);
      texts.insert(describe(p));
      ++count;
    };
    add([](Problem&) {});
    add([](Problem& p) { p.n = 8; });
    add([](Problem& p) { p.k = 16; });
    add([](Problem& p) { p.a = Fp8Type::kE5m2; });
    add([](Problem& p) { p.b = Fp8Type::kE5m2; });
    add([](Problem& p) { p.out = OutputType::kF32; });
    add([](Problem& p) { p.accumulate = true; });
    add([&](Problem& p) {
      p.sfa_major = p.sfa_major == ScaleMajor::kM ? ScaleMajor::kRow : ScaleMajor::kM;
    });
    if (layout == Layout::kDense) continue;
    add([](Problem& p) { p.groups = 33; });
    add([](Problem& p) { p.group_form = GroupForm::kNone; });
  }
  for (const std::int32_t alignment : {1, 64}) {
    Problem p = good(Layout::kGroupedContiguous);
    p.alignment = alignment;
    texts.insert(describe(p));
    ++count;
  }
  CHECK(texts.size() == count);
  CHECK(describe(good(Layout::kGroupedContiguous)) ==
        "grouped_contiguous 1d2d n=7168 k=2048 e4m3 x e4m3 -> bf16 sfa=row ends groups=32 "
        "alignment=128");
}
