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

constexpr Names<Layout, 1> kLayouts{{{Layout::kDense, "dense"}}};
constexpr Names<Scaling, 1> kScalings{{{Scaling::k1d2d, "1d2d"}}};
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
                            value, remedy, ceil_div(value, unit) * unit));
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
  if (problem.accumulate && problem.out != OutputType::kF32)
    throw Error(
        Status::kInvalidArgument,
        fmt::format(
            "accumulate needs out = f32 (partial sums would be rounded each time), got out = {}: "
            "use f32, or add outside",
            name(problem.out)));
}

std::string_view name(Layout value) { return name_in(kLayouts, value); }
std::string_view name(Scaling value) { return name_in(kScalings, value); }
std::string_view name(Fp8Type value) { return name_in(kFp8Types, value); }
std::string_view name(OutputType value) { return name_in(kOutputTypes, value); }
std::string_view name(ScaleMajor value) { return name_in(kScaleMajors, value); }

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

std::string describe(const Problem& p) {
  return fmt::format("{} {} n={} k={} {} x {} -> {}{} sfa={}", name(p.layout), name(p.scaling), p.n,
                     p.k, name(p.a), name(p.b), name(p.out), p.accumulate ? "+=" : "",
                     name(p.sfa_major));
}

}  // namespace kiln::jit
