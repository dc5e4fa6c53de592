#include "jit/problem.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "jit/error.h"

namespace kiln::jit {
namespace {

// One table per enumeration: the names of name() and parse_*().
template <typename T, std::size_t kCount>
using Names = std::array<std::pair<T, std::string_view>, kCount>;

constexpr Names<Layout, 4> kLayouts{{{Layout::kDense, "dense"},
                                     {Layout::kGroupedContiguous, "grouped_contiguous"},
                                     {Layout::kGroupedMasked, "grouped_masked"},
                                     {Layout::kGroupedK, "grouped_k"}}};
constexpr Names<Scaling, 2> kScalings{{{Scaling::k1d2d, "1d2d"}, {Scaling::k1d1d, "1d1d"}}};
constexpr Names<GroupForm, 5> kGroupForms{{{GroupForm::kNone, "none"},
                                           {GroupForm::kLabels, "labels"},
                                           {GroupForm::kEnds, "ends"},
                                           {GroupForm::kRows, "rows"},
                                           {GroupForm::kPacked, "packed"}}};
constexpr Names<Fp8Type, 2> kFp8Types{{{Fp8Type::kE4m3, "e4m3"}, {Fp8Type::kE5m2, "e5m2"}}};
constexpr Names<OutputType, 2> kOutputTypes{
    {{OutputType::kBf16, "bf16"}, {OutputType::kF32, "f32"}}};
constexpr Names<ScaleMajor, 2> kScaleMajors{{{ScaleMajor::kRow, "row"}, {ScaleMajor::kM, "m"}}};

template <typename T, std::size_t kCount>
std::string_view name_in(const Names<T, kCount>& names, T value) {
  for (const auto& [candidate, text] : names)
    if (candidate == value) return text;
  return {};
}

template <typename T, std::size_t kCount>
T parse_in(const Names<T, kCount>& names, std::string_view text, std::string_view field) {
  std::string accepted;
  for (const auto& [candidate, word] : names) {
    if (word == text) return candidate;
    accepted += fmt::format("{}{}", accepted.empty() ? "" : ", ", word);
  }
  throw Error(Status::kInvalidArgument,
              fmt::format("{} must be one of {}; got \"{}\"", field, accepted, text));
}

// A value outside its enumeration can arrive through the C API.
template <typename T, std::size_t kCount>
void check_known(const Names<T, kCount>& names, T value, std::string_view field) {
  if (!name_in(names, value).empty()) return;
  std::string accepted;
  for (const auto& [candidate, word] : names)
    accepted +=
        fmt::format("{}{} ({})", accepted.empty() ? "" : ", ", static_cast<int>(candidate), word);
  throw Error(Status::kInvalidArgument, fmt::format("{} must be one of {}; got {}", field, accepted,
                                                    static_cast<int>(value)));
}

constexpr std::int64_t kMaxExtent = (std::int64_t{1} << 31) - 512;

void check_extent(std::string_view field, std::int64_t value, std::int64_t unit,
                  std::string_view why, std::string_view remedy) {
  if (value <= 0 || value > kMaxExtent)
    throw Error(Status::kInvalidArgument,
                fmt::format("{} must be in {}..{} (TMA coordinates are 32-bit), got {}", field,
                            unit, kMaxExtent, value));
  if (value % unit != 0)
    throw Error(Status::kInvalidArgument,
                fmt::format("{} must be a multiple of {} ({}), got {}: {} to {}", field, unit, why,
                            value, remedy, round_up(value, unit)));
}

void check_scaling(const Problem& p) {
  const bool row_groups = has_row_groups(p), k_groups = p.layout == Layout::kGroupedK;
  if (row_groups && p.scaling != Scaling::k1d2d)
    refuse(fmt::format("scaling must be 1d2d for layout {} (weights have 128x128 scales), got {}",
                       name(p.layout), name(p.scaling)));
  if (k_groups && p.scaling != Scaling::k1d1d)
    refuse(
        fmt::format("scaling must be 1d1d for layout grouped_k (both operands are scaled along "
                    "tokens), got {}",
                    name(p.scaling)));
  if (p.scaling == Scaling::k1d1d && p.sfa_major != ScaleMajor::kM)
    refuse(
        fmt::format("sfa_major must be m for scaling 1d1d (SFA and SFB are loaded by TMA), got "
                    "{}: cast with scale_major m",
                    name(p.sfa_major)));
}

void check_group_form(const Problem& p) {
  const auto accepts = [&]() -> std::string_view {
    switch (p.layout) {
      case Layout::kDense:
        return "none";
      case Layout::kGroupedContiguous:
        return "labels or ends";
      case Layout::kGroupedMasked:
        return "rows";
      case Layout::kGroupedK:
        return "ends or packed";
    }
    return "";
  }();
  if (accepts.find(name(p.group_form)) == std::string_view::npos)
    refuse(fmt::format("group_form must be {} for layout {}, got {}", accepts, name(p.layout),
                       name(p.group_form)));
}

void check_groups(const Problem& p) {
  if (p.layout == Layout::kDense && p.groups != 1)
    refuse(fmt::format("groups must be 1 for layout dense, got {}", p.groups));
  if (p.groups < 1 || p.groups > kMaxGroups)
    refuse(fmt::format("groups must be in 1..{}, got {}: split the groups over several launches",
                       kMaxGroups, p.groups));
  const bool is_power = p.alignment > 0 && (p.alignment & (p.alignment - 1)) == 0;
  if (p.layout == Layout::kGroupedContiguous && (!is_power || p.alignment > kMaxAlignment))
    refuse(
        fmt::format("alignment must be a power of two in 1..{} for layout grouped_contiguous (1: "
                    "no padding between groups), got {}",
                    kMaxAlignment, p.alignment));
  if (p.layout != Layout::kGroupedContiguous && p.alignment != 0)
    refuse(
        fmt::format("alignment must be 0 for layout {} (it belongs to grouped_contiguous), got {}",
                    name(p.layout), p.alignment));
}

}  // namespace

void validate(const Problem& problem) {
  check_known(kLayouts, problem.layout, "layout");
  check_known(kScalings, problem.scaling, "scaling");
  check_known(kFp8Types, problem.a, "a");
  check_known(kFp8Types, problem.b, "b");
  check_known(kOutputTypes, problem.out, "out");
  check_known(kScaleMajors, problem.sfa_major, "sfa_major");
  check_extent("n", problem.n, 8, "D is stored in 16-byte units", "pad B and D");
  check_extent("k", problem.k, 16, "FP8 rows are loaded in 16-byte units", "pad A and B");
  check_known(kGroupForms, problem.group_form, "group_form");
  check_scaling(problem);
  check_group_form(problem);
  check_groups(problem);
}

std::int32_t group_capacity(const Problem& problem) {
  if (!has_row_groups(problem)) return 1;
  return problem.groups <= 64 ? 64 : problem.groups <= 256 ? 256 : kMaxGroups;
}

Problem canonical(const Problem& problem) {
  Problem p = problem;
  p.groups = group_capacity(p);
  p.batch_invariant = false;
  if (p.layout == Layout::kGroupedContiguous) p.alignment = static_cast<std::int32_t>(kScaleBlock);
  if (p.scaling == Scaling::k1d1d) p.k = reduces(p) ? kReduceFromK : kScaleBlock;
  return p;
}

GroupForm default_group_form(Layout layout) {
  switch (layout) {
    case Layout::kDense:
      return GroupForm::kNone;
    case Layout::kGroupedMasked:
      return GroupForm::kRows;
    case Layout::kGroupedContiguous:
    case Layout::kGroupedK:
      return GroupForm::kEnds;
  }
  return GroupForm::kNone;
}

std::string_view name(Layout value) { return name_in(kLayouts, value); }
std::string_view name(Scaling value) { return name_in(kScalings, value); }
std::string_view name(Fp8Type value) { return name_in(kFp8Types, value); }
std::string_view name(OutputType value) { return name_in(kOutputTypes, value); }
std::string_view name(ScaleMajor value) { return name_in(kScaleMajors, value); }
std::string_view name(GroupForm value) { return name_in(kGroupForms, value); }

Layout parse_layout(std::string_view text, std::string_view field) {
  return parse_in(kLayouts, text, field);
}
Scaling parse_scaling(std::string_view text, std::string_view field) {
  return parse_in(kScalings, text, field);
}
Fp8Type parse_fp8_type(std::string_view text, std::string_view field) {
  return parse_in(kFp8Types, text, field);
}
OutputType parse_output_type(std::string_view text, std::string_view field) {
  return parse_in(kOutputTypes, text, field);
}
ScaleMajor parse_scale_major(std::string_view text, std::string_view field) {
  return parse_in(kScaleMajors, text, field);
}
GroupForm parse_group_form(std::string_view text, std::string_view field) {
  return parse_in(kGroupForms, text, field);
}

std::string describe(const Problem& p) {
  std::string text = fmt::format("{} {} n={} k={} {} x {} -> {}{} sfa={}", name(p.layout),
                                 name(p.scaling), p.n, p.k, name(p.a), name(p.b), name(p.out),
                                 p.accumulate ? "+=" : "", name(p.sfa_major));
  if (is_grouped(p)) text += fmt::format(" {} groups={}", name(p.group_form), p.groups);
  if (p.layout == Layout::kGroupedContiguous) text += fmt::format(" alignment={}", p.alignment);
  if (p.batch_invariant) text += " batch_invariant";
  return text;
}

}  // namespace kiln::jit
