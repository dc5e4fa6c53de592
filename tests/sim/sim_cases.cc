#include "tests/sim/sim_cases.h"

#include <optional>

namespace kiln::test {
namespace {

using jit::GroupForm;
using jit::OutputType;
using jit::ScaleMajor;
using enum jit::Fp8Type;

jit::Problem dense(std::int64_t n, std::int64_t k, OutputType out = OutputType::kBf16,
                   ScaleMajor major = ScaleMajor::kRow, bool accumulate = false) {
  jit::Problem problem;
  problem.n = n;
  problem.k = k;
  problem.out = out;
  problem.sfa_major = major;
  problem.accumulate = accumulate;
  return problem;
}

jit::Problem rows(jit::Layout layout, GroupForm form, std::int64_t n, std::int64_t k,
                  std::int32_t alignment = 0, ScaleMajor major = ScaleMajor::kRow,
                  OutputType out = OutputType::kBf16, bool accumulate = false) {
  jit::Problem problem = dense(n, k, out, major, accumulate);
  problem.layout = layout;
  problem.group_form = form;
  problem.alignment = alignment;
  return problem;
}

jit::Problem gradient(std::int64_t n, std::int64_t typical_k, bool accumulate,
                      OutputType out = OutputType::kF32, jit::Layout layout = jit::Layout::kDense,
                      GroupForm form = GroupForm::kNone) {
  jit::Problem problem = dense(n, typical_k, out, ScaleMajor::kM, accumulate);
  problem.scaling = jit::Scaling::k1d1d;
  problem.layout = layout;
  problem.group_form = form;
  return problem;
}

jit::Problem types(jit::Problem problem, jit::Fp8Type a, jit::Fp8Type b) {
  problem.a = a;
  problem.b = b;
  return problem;
}

std::optional<jit::Tile> tile(const char* text) { return jit::parse_tile(text, "tile"); }

GroupedCase plain(const jit::Problem& problem, std::int64_t m, const char* tile_text) {
  GroupedCase test;
  test.problem = problem;
  test.m = m;
  test.tile = tile(tile_text);
  return test;
}

GroupedCase sized(const jit::Problem& problem, std::vector<std::int32_t> sizes, std::int64_t m,
                  const char* tile_text) {
  GroupedCase test = plain(problem, m, tile_text);
  test.sizes = std::move(sizes);
  return test;
}

constexpr auto kF32 = OutputType::kF32;
constexpr auto kBf16 = OutputType::kBf16;
constexpr auto kM = ScaleMajor::kM;
constexpr auto kRow = ScaleMajor::kRow;

}  // namespace

std::vector<NamedCase> dense_cases() {
  return {
      {"tails", plain(dense(264, 656), 200, "128x128/2x1/s4/c1x1/r8")},
      {"one row", plain(dense(136, 400), 1, "64x64/1x1/s4/c1x1/r8")},
      {"M-major scales", plain(dense(264, 656, kBf16, kM), 200, "128x128/2x1/s3/c1x1/r8")},
      {"FP32, wide tile", plain(dense(208, 272, kF32), 130, "128x192/2x1/s3/c1x1/r4")},
      {"A in registers", plain(dense(264, 528), 200, "128x256/2x1/s3/c1x1/r8")},
      {"A in registers, cluster in M, mixed types",
       plain(types(dense(264, 656, kBf16, kM), kE5m2, kE4m3), 300, "128x256/2x1/s4/c2x1/r8")},
      {"A in registers, reduces",
       plain(dense(264, 2048, kF32, kRow, true), 70, "64x256/1x1/s3/c1x2/r8")},
      {"three warpgroups", plain(dense(136, 400), 193, "192x128/3x1/s3/c1x1/r2")},
      {"two waves, whole rounds", plain(dense(128, 1024), 300, "256x128/2x1/s4/c1x1/r8")},
      {"two by one warpgroups in N", plain(dense(264, 400), 70, "64x128/1x2/s4/c1x1/r8")},
      {"half blocks of columns in N", plain(dense(200, 400), 130, "64x96/1x2/s4/c1x1/r8")},
      {"mixed types, narrow",
       plain(types(dense(72, 272), kE5m2, kE4m3), 65, "64x24/1x1/s6/c1x1/r8")},
      {"accumulates BF16",
       plain(dense(136, 400, kBf16, kRow, true), 100, "128x128/2x1/s3/c1x1/r8")},
      {"accumulates FP32", plain(dense(136, 400, kF32, kM, true), 100, "128x64/2x1/s4/c1x1/r8")},
      {"reduces", plain(dense(72, 2048, kF32, kRow, true), 70, "64x64/1x1/s4/c1x1/r8")},
      {"cluster in M", plain(dense(264, 400), 300, "128x128/2x1/s3/c2x1/r8")},
      {"cluster in N", plain(dense(264, 400, kBf16, kM), 200, "128x64/2x1/s4/c1x2/r8")},
      {"cluster of four", plain(dense(200, 272), 140, "64x64/1x1/s4/c2x2/r8")},
      {"eight rows", plain(dense(136, 1024), 5, "8x16/1x1x2/s4x2/c1x1/r1")},
      {"low tiles", plain(dense(136, 768, kBf16, kM), 20, "16x48/1x1/s2x4/c1x1/r8")},
      {"low tiles accumulate",
       plain(dense(72, 1024, kBf16, kRow, true), 40, "32x24/1x1/s3x2/c1x1/r1")},
      {"parts in a cluster", plain(dense(136, 1280, kBf16, kM), 9, "8x32/1x1x2/s4x2/c1x1x2/r1")},
      {"parts accumulate",
       plain(dense(136, 1024, kF32, kM, true), 20, "8x24/1x1x2/s2x2/c1x1x2/r1")},
      {"four parts, tails", plain(dense(200, 1040), 70, "64x32/1x1x2/s4/c1x1x4/r1")},
      {"parts of two warpgroups", plain(dense(136, 1024, kF32), 100, "128x64/2x1/s3x2/c1x1x2/r1")},
  };
}

std::vector<NamedCase> dense_1d1d_cases() {
  return {
      {"tails", sized(gradient(264, 512, false), {400}, 200, "128x128/2x1/s4/c1x1/r8")},
      {"BF16", sized(gradient(136, 512, false, kBf16), {272}, 77, "128x96/2x1/s4/c1x1/r8")},
      {"accumulates", sized(gradient(136, 512, true), {400}, 130, "128x112/2x1/s4/c1x1/r8")},
      {"reduces", sized(gradient(136, 4096, true), {400}, 130, "192x112/3x1/s3/c1x1/r8")},
      {"reduces, split scales",
       sized(gradient(136, 4096, true), {656}, 260, "192x64/3x1/s3/c1x1/r8")},
      {"no K", sized(gradient(72, 512, false), {0}, 65, "64x64/1x1/s4/c1x1/r8")},
      {"cluster", sized(gradient(264, 512, false), {272}, 200, "128x64/2x1/s4/c2x1/r8")},
      {"two passes, BF16",
       sized(gradient(264, 512, false, kBf16), {400}, 200, "128x192/2x1/s4/c1x1/r8")},
      {"four passes, reduces, cluster",
       sized(gradient(264, 4096, true), {528}, 260, "128x256/2x1/s3/c2x1/r8")},
  };
}

std::vector<NamedCase> contiguous_cases() {
  constexpr auto kLayout = jit::Layout::kGroupedContiguous;
  constexpr auto kLabels = GroupForm::kLabels, kEnds = GroupForm::kEnds;
  const std::vector<std::int32_t> ragged{0, 1, 127, 130, 0, 65, 0};
  std::vector<NamedCase> cases{
      {"labels", sized(rows(kLayout, kLabels, 136, 272, 1), ragged, 0, "128x128/2x1/s3/c1x1/r8")},
      {"labels with gaps, zeros behind", sized(rows(kLayout, kLabels, 136, 272, 64, kM),
                                               {64, 0, 1, 100}, 0, "128x64/2x1/s4/c1x1/r8")},
      {"ends", sized(rows(kLayout, kEnds, 136, 272, 1, kM), ragged, 0, "128x128/2x1/s3/c1x1/r8")},
      {"aligned ends",
       sized(rows(kLayout, kEnds, 136, 272, 128), ragged, 0, "256x64/2x1/s3/c1x1/r8")},
      {"one row each", sized(rows(kLayout, kEnds, 72, 272, 1), std::vector<std::int32_t>(9, 1), 0,
                             "64x64/1x1/s4/c1x1/r8")},
      {"no rows", sized(rows(kLayout, kEnds, 72, 272, 1), {0, 0, 0}, 0, "64x64/1x1/s4/c1x1/r8")},
      {"accumulates", sized(rows(kLayout, kLabels, 72, 272, 1, kRow, kF32, true), {70, 0, 1}, 0,
                            "128x64/2x1/s4/c1x1/r8")},
      {"cluster",
       sized(rows(kLayout, kEnds, 264, 272, 1), {1, 0, 260, 129}, 0, "128x64/2x1/s4/c1x2/r8")},
      {"A in registers, lone rows",
       sized(rows(kLayout, kEnds, 264, 400, 1, kM), {1, 0, 290, 130}, 0, "128x256/2x1/s4/c2x1/r8")},
  };
  cases[1].test.gaps = {1, 0, 2, 1};
  cases[1].test.slack = 70;
  cases[1].test.zero_padding = true;
  cases[5].test.slack = 40;
  return cases;
}

std::vector<NamedCase> masked_cases() {
  constexpr auto kLayout = jit::Layout::kGroupedMasked;
  constexpr auto kRows = GroupForm::kRows;
  std::vector<NamedCase> cases{
      {"ragged",
       sized(rows(kLayout, kRows, 136, 272), {0, 130, 1, 64, 0}, 130, "128x128/2x1/s3/c1x1/r8")},
      {"M-major scales",
       sized(rows(kLayout, kRows, 136, 272, 0, kM), {3, 0, 192}, 196, "192x64/3x1/s3/c1x1/r8")},
      {"low tiles",
       sized(rows(kLayout, kRows, 136, 400, 0, kM), {3, 0, 40}, 64, "32x64/1x1x2/s4/c1x1/r8")},
      {"FP32",
       sized(rows(kLayout, kRows, 72, 400, 0, kRow, kF32), {65, 1}, 70, "64x64/1x1/s4/c1x1/r8")},
      {"expert map", sized(rows(kLayout, kRows, 72, 272), {65, 0, 7}, 70, "128x64/2x1/s4/c1x1/r8")},
      {"accumulates", sized(rows(kLayout, kRows, 72, 272, 0, kRow, kBf16, true), {5, 70}, 72,
                            "64x64/1x1/s4/c1x1/r8")},
      {"cluster", sized(rows(kLayout, kRows, 136, 272), {200, 0, 1}, 256, "64x64/1x1/s4/c2x1/r8")},
      {"A in registers",
       sized(rows(kLayout, kRows, 264, 400), {200, 0, 1, 65}, 256, "128x256/2x1/s3/c1x1/r8")},
  };
  cases[3].test.experts = {4, 1, 0};
  cases[3].test.num_slices = 5;
  return cases;
}

std::vector<NamedCase> grouped_k_cases() {
  constexpr auto kLayout = jit::Layout::kGroupedK;
  constexpr auto kEnds = GroupForm::kEnds, kPacked = GroupForm::kPacked;
  const std::vector<std::int32_t> ragged{128, 0, 384, 0, 256};
  return {
      {"ends", sized(gradient(136, 512, false, kF32, kLayout, kEnds), ragged, 130,
                     "128x128/2x1/s3/c1x1/r8")},
      {"packed", sized(gradient(136, 512, false, kF32, kLayout, kPacked), ragged, 130,
                       "128x96/2x1/s4/c1x1/r8")},
      {"packed, accumulates", sized(gradient(72, 512, true, kF32, kLayout, kPacked), {0, 256, 128},
                                    65, "64x64/1x1/s4/c1x1/r8")},
      {"reduces", sized(gradient(72, 4096, true, kF32, kLayout, kEnds), {256, 0, 128}, 65,
                        "64x64/1x1/s4/c1x1/r8")},
      {"BF16, no K at all",
       sized(gradient(72, 512, false, kBf16, kLayout, kEnds), {0, 0}, 65, "64x64/1x1/s4/c1x1/r8")},
      {"cluster", sized(gradient(136, 512, false, kF32, kLayout, kEnds), {128, 0, 256}, 200,
                        "128x64/2x1/s4/c2x1/r8")},
      {"two passes, packed, reduces", sized(gradient(200, 4096, true, kF32, kLayout, kPacked),
                                            {512, 0, 128}, 130, "128x192/2x1/s4/c2x1/r8")},
  };
}

std::vector<NamedCase> all_cases() {
  std::vector<NamedCase> all;
  const auto add = [&](const char* family, std::vector<NamedCase> cases) {
    for (NamedCase& c : cases) all.push_back({std::string(family) + ": " + c.name, c.test});
  };
  add("dense 1d2d", dense_cases());
  add("dense 1d1d", dense_1d1d_cases());
  add("contiguous", contiguous_cases());
  add("masked", masked_cases());
  add("grouped_k", grouped_k_cases());
  return all;
}

}  // namespace kiln::test
