// grouped_contiguous and grouped_masked on a real GPU, through the C API. What belongs to no group
// is NaN in every operand, and must stay as it is in D.
#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "tests/runtime/gpu_grouped_support.h"

namespace kiln::test {
namespace {

using Sizes = std::vector<std::int32_t>;

const Sizes kRagged{0, 1, 127, 128, 129, 0, 65, 130, 0};

jit::Problem contiguous(jit::GroupForm form, std::int32_t alignment, std::int64_t n = 264,
                        std::int64_t k = 400) {
  jit::Problem problem;
  problem.layout = jit::Layout::kGroupedContiguous;
  problem.group_form = form;
  problem.alignment = alignment;
  problem.n = n;
  problem.k = k;
  return problem;
}

jit::Problem masked(std::int64_t n = 264, std::int64_t k = 400) {
  jit::Problem problem;
  problem.layout = jit::Layout::kGroupedMasked;
  problem.group_form = jit::GroupForm::kRows;
  problem.n = n;
  problem.k = k;
  return problem;
}

constexpr auto kLabels = jit::GroupForm::kLabels;
constexpr auto kEnds = jit::GroupForm::kEnds;

Sizes random_sizes(std::size_t groups, std::uint64_t seed) {
  constexpr std::array<std::int32_t, 8> kMenu{0, 1, 3, 17, 64, 65, 128, 129};
  std::mt19937_64 random(seed);
  Sizes sizes(groups);
  for (std::int32_t& size : sizes) size = kMenu[random() % kMenu.size()];
  return sizes;
}

}  // namespace

TEST_CASE("ragged groups at every alignment, by labels and by ends, give exactly the right bits",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const auto form : {kLabels, kEnds}) {
    for (const std::int32_t alignment : {1, 8, 64, 128, 256}) {
      for (const auto major : {jit::ScaleMajor::kRow, jit::ScaleMajor::kM}) {
        jit::Problem problem = contiguous(form, alignment);
        problem.sfa_major = major;
        check_exact(gpu, {.problem = problem, .sizes = kRagged, .slack = 37});
        check_exact(gpu, {.problem = problem, .sizes = {128, 130, 65}});
      }
    }
  }
}

TEST_CASE("all rows may be in one group, or none in any", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const auto form : {kLabels, kEnds}) {
    for (const Sizes& sizes : {Sizes{700, 0, 0, 0}, Sizes{0, 0, 700, 0}, Sizes{0, 0, 0, 700},
                               Sizes{0, 0, 0, 0}, Sizes{1, 0, 0, 0}}) {
      check_exact(gpu, {.problem = contiguous(form, 1), .sizes = sizes, .slack = 100});
      check_exact(gpu, {.problem = contiguous(form, 128), .sizes = sizes, .slack = 100});
    }
  }
}

TEST_CASE("rows labelled -1 may stand before, between and behind the groups", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int32_t alignment : {1, 64, 128}) {
    for (const auto major : {jit::ScaleMajor::kRow, jit::ScaleMajor::kM}) {
      for (const bool zeros : {false, true}) {
        jit::Problem problem = contiguous(kLabels, alignment);
        problem.sfa_major = major;
        check_exact(gpu, {.problem = problem,
                          .sizes = {128, 64, 0, 1, 127, 200},
                          .slack = 150,
                          .gaps = {1, 0, 3, 2, 1, 2},
                          .zero_padding = zeros});
      }
    }
  }
}

TEST_CASE("rows of no group become zeros when asked for, by labels and by ends", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const auto form : {kLabels, kEnds}) {
    for (const bool f32 : {false, true}) {
      for (const std::int32_t alignment : {1, 64, 256}) {
        jit::Problem problem = contiguous(form, alignment);
        problem.out = f32 ? jit::OutputType::kF32 : jit::OutputType::kBf16;
        check_exact(gpu,
                    {.problem = problem, .sizes = kRagged, .slack = 300, .zero_padding = true});
        check_exact(gpu,
                    {.problem = problem, .sizes = {0, 0, 0}, .slack = 300, .zero_padding = true});
      }
    }
  }
}

TEST_CASE("any number of groups is exact, around the capacities of the group table", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::size_t groups : {1u, 5u, 64u, 65u, 300u}) {
    const Sizes sizes = random_sizes(groups, groups);
    check_exact(gpu, {.problem = contiguous(kLabels, 1, 72, 144), .sizes = sizes, .slack = 9});
    check_exact(gpu, {.problem = contiguous(kEnds, 1, 72, 144), .sizes = sizes, .slack = 9});
    check_exact(gpu, {.problem = contiguous(kEnds, 128, 72, 144), .sizes = sizes, .slack = 9});
    check_exact(gpu, {.problem = masked(72, 144), .sizes = sizes, .m = 130});
  }
  check_exact(gpu, {.problem = contiguous(kEnds, 1, 72, 144), .sizes = Sizes(1024, 1)});
  check_exact(gpu, {.problem = masked(72, 144), .sizes = Sizes(1024, 1), .m = 3});
}

TEST_CASE("masked groups are exact for few rows, all rows and no rows of small and large slices",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const auto major : {jit::ScaleMajor::kRow, jit::ScaleMajor::kM}) {
    jit::Problem problem = masked();
    problem.sfa_major = major;
    for (const std::int32_t m : {1, 8, 16, 32}) {
      check_exact(gpu, {.problem = problem, .sizes = {m, 0, 1, m / 2, 0}, .m = m});
      check_exact(gpu, {.problem = problem, .sizes = {0, 0, 0}, .m = m});
    }
    check_exact(
        gpu,
        {.problem = problem, .sizes = {0, 333, 1, 127, 128, 129, 0, 192, 193, 256, 257}, .m = 333});
    check_exact(gpu, {.problem = problem, .sizes = {64, 65}, .m = 4096});
  }
}

TEST_CASE("every mix of types, outputs and accumulation is exact with groups of rows", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  using enum jit::Fp8Type;
  for (const auto& [a, b] :
       {std::pair(kE4m3, kE4m3), std::pair(kE5m2, kE4m3), std::pair(kE4m3, kE5m2)}) {
    for (const auto out : {jit::OutputType::kBf16, jit::OutputType::kF32}) {
      for (const bool accumulate : {false, true}) {
        for (jit::Problem problem : {contiguous(kEnds, 1), masked()}) {
          problem.a = a;
          problem.b = b;
          problem.out = out;
          problem.accumulate = accumulate;
          if (a != b) problem.sfa_major = jit::ScaleMajor::kM;
          check_exact(gpu, {.problem = problem, .sizes = {0, 1, 127, 65, 3}, .m = 150});
        }
      }
    }
  }
}

TEST_CASE("ragged N and K are exact with groups of rows", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int64_t n : {8, 136, 1000}) {
    for (const std::int64_t k : {16, 1040}) {
      check_exact(gpu, {.problem = contiguous(kEnds, 1, n, k), .sizes = {5, 0, 70, 129}});
      check_exact(gpu, {.problem = masked(n, k), .sizes = {5, 0, 70}, .m = 77});
    }
  }
}

TEST_CASE("groups may share slices of B, and slices that no group uses are not looked at",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  const Sizes sizes{70, 0, 129, 1, 128}, experts{5, 1, 2, 2, 0};
  for (const std::int32_t slices : {6, 9}) {
    for (const auto form : {kLabels, kEnds})
      check_exact(gpu, {.problem = contiguous(form, 1),
                        .sizes = sizes,
                        .experts = experts,
                        .num_slices = slices});
    check_exact(
        gpu,
        {.problem = masked(), .sizes = sizes, .m = 140, .experts = experts, .num_slices = slices});
  }
  check_exact(
      gpu,
      {.problem = masked(), .sizes = sizes, .m = 140, .experts = {0, 0, 0, 0, 0}, .num_slices = 1});
}

TEST_CASE("groups of rows are exact on any number of SMs", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int32_t num_sms : {8, 9, 64}) {
    check_exact(gpu, {.problem = contiguous(kEnds, 1, 1000, 400), .sizes = kRagged}, num_sms);
    check_exact(gpu, {.problem = masked(1000, 400), .sizes = kRagged, .m = 200}, num_sms);
  }
}

TEST_CASE("random values with groups of rows stay close to a reference in double precision",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const auto major : {jit::ScaleMajor::kRow, jit::ScaleMajor::kM}) {
    for (jit::Problem problem : {contiguous(kLabels, 128, 392, 1424),
                                 contiguous(kEnds, 1, 392, 1424), masked(392, 1424)}) {
      problem.sfa_major = major;
      check_random(gpu, {.problem = problem, .sizes = {33, 0, 128, 130, 1}, .m = 130});
      problem.out = jit::OutputType::kF32;
      problem.accumulate = true;
      problem.a = jit::Fp8Type::kE5m2;
      check_random(gpu, {.problem = problem, .sizes = {33, 0, 128, 130, 1}, .m = 130});
    }
  }
}

namespace {

void check_row_group_tiles(Gpu& gpu, std::size_t at_most) {
  for (const bool f32 : {false, true}) {
    for (jit::Problem problem : {contiguous(kEnds, 1, 520, 400), masked(520, 400)}) {
      problem.out = f32 ? jit::OutputType::kF32 : jit::OutputType::kBf16;
      problem.accumulate = f32;
      problem.sfa_major = f32 ? jit::ScaleMajor::kM : jit::ScaleMajor::kRow;
      check_tiles(gpu, {.problem = problem, .sizes = {1, 0, 129, 256, 300, 63}, .m = 301}, at_most);
    }
  }
}

}  // namespace

TEST_CASE("tiles across the menu are exact with groups of rows", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  check_row_group_tiles(gpu, 8);
}

// Hundreds of compiles: run it by name.
TEST_CASE("every tile of the menu is exact with groups of rows", "[.][all-tiles]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  check_row_group_tiles(gpu, 100'000);
}

TEST_CASE("labels, ends, rows and experts out of range never write outside D", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  std::mt19937_64 random(3);
  const auto wild = [&](std::int32_t around) {
    constexpr std::array<std::int32_t, 6> kWild{INT_MIN, -5, 0, 1 << 20, INT_MAX - 1, INT_MAX};
    const auto pick = random() % 12;
    return pick < kWild.size() ? kWild[pick]
                               : static_cast<std::int32_t>(random() % (2u * around)) - 2;
  };
  for (const jit::Problem& problem : {contiguous(kLabels, 1), contiguous(kLabels, 128),
                                      contiguous(kEnds, 1), contiguous(kEnds, 128), masked()}) {
    const GroupedCase test{.problem = problem,
                           .sizes = {100, 30, 0, 65},
                           .m = 110,
                           .slack = 20,
                           .experts = {0, 1, 2, 3},
                           .fill_all = true};
    INFO(describe(test));
    GroupedGemm gemm(gpu, test);
    gemm.fill_exact();
    gemm.upload();
    const Sizes good = gemm.grouping();
    const auto limit = static_cast<std::int32_t>(problem.group_form == kLabels ? 4 : gemm.m());
    for (int round = 0; round < 40; ++round) {
      Sizes grouping = good, experts = test.experts;
      // One bad value, then a quarter of them, then all; the experts by turns.
      for (std::int32_t& value : grouping)
        if (round % 3 == 2 || random() % 4 == 0) value = wild(limit);
      if (round % 2 == 1)
        for (std::int32_t& expert : experts) expert = wild(4);
      check_broken_contract(gemm, grouping, experts);
    }
    gemm.reset_output();
    gemm.set_grouping(good);
    gemm.set_experts(test.experts);
    gemm.launch();
    CHECK(gemm.defect() == "");
  }
}

TEST_CASE("with KILN_CHECK_ON a broken contract is named with index and value, and nothing runs",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  options.device = gpu.device().info().ordinal;
  options.check_groups = KILN_CHECK_ON;
  kiln_engine* engine = nullptr;
  KILN_CHECK_OK(kiln_engine_create(&options, &engine));
  struct Violation {
    jit::Problem problem;
    bool of_experts;
    std::size_t index;
    std::int32_t value;
  };
  const std::vector<Violation> violations{
      {contiguous(kLabels, 1), false, 101, 77'001},  // out of range
      {contiguous(kLabels, 1), false, 131, 0},       // not sorted
      {contiguous(kLabels, 128), false, 101, 3},     // begins at row 101
      {contiguous(kEnds, 1), false, 1, 57},          // decreases
      {contiguous(kEnds, 1), false, 3, 77'001},      // beyond m
      {masked(), false, 2, 77'001},                  // beyond m
      {masked(), false, 1, -57},                     // negative
      {contiguous(kEnds, 1), true, 2, 77'001},       // no such slice
      {masked(), true, 3, -57},
  };
  for (const Violation& v : violations) {
    const GroupedCase test{.problem = v.problem,
                           .sizes = {100, 30, 0, 65},
                           .m = 110,
                           .slack = 20,
                           .experts = {0, 1, 2, 3}};
    INFO(describe(test) << " index " << v.index << " value " << v.value);
    GroupedGemm gemm(gpu, test, engine);
    gemm.fill_exact();
    gemm.upload();
    gemm.launch();
    CHECK(gemm.defect() == "");

    Sizes values = v.of_experts ? test.experts : gemm.grouping();
    values[v.index] = v.value;
    if (v.of_experts)
      gemm.set_experts(values);
    else
      gemm.set_grouping(values);
    gemm.reset_output();
    const std::vector<std::byte> before = gemm.output_bytes();
    const kiln_operands operands = gemm.operands();
    CHECK(kiln_launch(gemm.plan(), &operands, gpu.stream()) == KILN_ERROR_INVALID_ARGUMENT);
    const std::string message = kiln_last_error();
    INFO(message);
    const std::string place =
        (v.of_experts ? "expert_map[" : "grouping[") + std::to_string(v.index) + "]";
    CHECK(message.find(place) != std::string::npos);
    CHECK(message.find("got " + std::to_string(v.value)) != std::string::npos);
    CHECK(gemm.output_bytes() == before);
  }
  kiln_engine_destroy(engine);
}

// ---- more than 2^31 elements ----

namespace {

constexpr std::int64_t kFar = std::int64_t{1} << 31;  // elements from slice to slice

std::vector<std::byte> row_of(float value, std::int64_t count) {
  return std::vector<std::byte>(static_cast<std::size_t>(count),
                                static_cast<std::byte>(encode_fp8(value, kE4m3Format)));
}

std::int64_t count_in_row(const runtime::DeviceBuffer& d, std::int64_t first, std::int64_t count,
                          float value) {
  std::vector<std::uint16_t> got(static_cast<std::size_t>(count));
  d.download(std::as_writable_bytes(std::span(got)), static_cast<std::size_t>(first) * 2);
  return std::count(got.begin(), got.end(), float_to_bf16(value));
}

}  // namespace

TEST_CASE("contiguous operands of more than 2^31 elements are addressed right", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  if (gpu.device().info().memory_bytes < std::int64_t{16} << 30)
    KILN_SKIP("the GPU has less than 16 GiB");
  constexpr std::int64_t kM = 70'000, kN = 32'768, kK = 128, kLda = 32'768;
  static_assert(kM * kN > kFar && kM * kLda > kFar);
  const runtime::Device& device = gpu.device();
  runtime::DeviceBuffer a(device, kM * kLda), b(device, kFar + kN * kK), d(device, kM * kN * 2);
  a.fill(kPoison, gpu.stream());
  gpu.synchronize();
  const auto value = [](std::int64_t row) { return static_cast<float>(row % 7 - 3); };
  const std::vector<std::int64_t> rows{0, 39'999, 40'000, 65'535, 65'536, kM - 1};
  for (const std::int64_t row : rows)
    a.upload(row_of(value(row), kK), static_cast<std::size_t>(row * kLda));
  b.upload(row_of(1, kN * kK));
  b.upload(row_of(2, kN * kK), kFar);
  const auto sfa = runtime::DeviceBuffer::of(device, std::vector<float>(kM, 1.0f));
  const auto sfb = runtime::DeviceBuffer::of(device, std::vector<float>(2 * kN / 128, 1.0f));
  const auto ends = runtime::DeviceBuffer::of(device, Sizes{40'000, kM});
  jit::Problem problem = contiguous(kEnds, 1, kN, kK);
  problem.groups = 2;
  const kiln_problem wanted = c_problem(problem);
  kiln_plan* plan = nullptr;
  KILN_CHECK_OK(kiln_plan_create(gpu.handle(), &wanted, nullptr, &plan));
  kiln_operands o = KILN_OPERANDS_INIT;
  o.m = kM;
  o.a = a.data();
  o.lda = kLda;
  o.b = b.data();
  o.ldb = kK;
  o.b_group_stride = kFar;
  o.sfa = sfa.data<float>();
  o.sfb = sfb.data<float>();
  o.ld_sfa = o.ld_sfb = 1;
  o.d = d.data();
  o.ldd = kN;
  o.grouping = ends.data<std::int32_t>();
  KILN_CHECK_OK(kiln_launch(plan, &o, gpu.stream()));
  gpu.synchronize();
  kiln_plan_destroy(plan);
  for (const std::int64_t row : rows)
    CHECK(count_in_row(d, row * kN, kN, value(row) * kK * (row < 40'000 ? 1 : 2)) == kN);
}

TEST_CASE("masked slices more than 2^31 elements apart are addressed right", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  if (gpu.device().info().memory_bytes < std::int64_t{24} << 30)
    KILN_SKIP("the GPU has less than 24 GiB");
  constexpr std::int64_t kM = 200, kN = 264, kK = 128, kGroups = 3;
  const runtime::Device& device = gpu.device();
  runtime::DeviceBuffer a(device, 2 * kFar + kM * kK), b(device, 2 * kFar + kN * kK),
      d(device, (2 * kFar + kM * kN) * 2);
  for (std::int64_t g = 0; g < kGroups; ++g) {
    a.upload(row_of(static_cast<float>(g + 1), kM * kK), static_cast<std::size_t>(g * kFar));
    b.upload(row_of(static_cast<float>(3 - g), kN * kK), static_cast<std::size_t>(g * kFar));
  }
  const auto scales = runtime::DeviceBuffer::of(device, std::vector<float>(kGroups * kM, 1.0f));
  const auto rows = runtime::DeviceBuffer::of(device, Sizes{kM, 1, kM - 1});
  d.fill(0, gpu.stream());
  jit::Problem problem = masked(kN, kK);
  problem.groups = kGroups;
  const kiln_problem wanted = c_problem(problem);
  kiln_plan* plan = nullptr;
  KILN_CHECK_OK(kiln_plan_create(gpu.handle(), &wanted, nullptr, &plan));
  kiln_operands o = KILN_OPERANDS_INIT;
  o.m = kM;
  o.expected_m = kM;
  o.a = a.data();
  o.b = b.data();
  o.lda = o.ldb = kK;
  o.a_group_stride = o.b_group_stride = o.d_group_stride = kFar;
  o.sfa = scales.data<float>();
  o.sfb = scales.data<float>();
  o.ld_sfa = o.ld_sfb = 1;
  o.d = d.data();
  o.ldd = kN;
  o.grouping = rows.data<std::int32_t>();
  KILN_CHECK_OK(kiln_launch(plan, &o, gpu.stream()));
  gpu.synchronize();
  kiln_plan_destroy(plan);
  CHECK(count_in_row(d, 0, kM * kN, 3 * kK) == kM * kN);
  CHECK(count_in_row(d, kFar, kN, 4 * kK) == kN);
  CHECK(count_in_row(d, kFar + kN, (kM - 1) * kN, 0) == (kM - 1) * kN);
  CHECK(count_in_row(d, 2 * kFar, (kM - 1) * kN, 3 * kK) == (kM - 1) * kN);
  CHECK(count_in_row(d, 2 * kFar + (kM - 1) * kN, kN, 0) == kN);
}

}  // namespace kiln::test
