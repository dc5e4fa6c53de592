// Weight gradients on a real GPU, through the C API: dense 1d1d, and grouped_k in both forms. What
// lies between the groups, behind them and around every operand is NaN.
#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>
#include <random>
#include <span>
#include <vector>

#include "tests/runtime/gpu_grouped_support.h"

namespace kiln::test {
namespace {

using Sizes = std::vector<std::int32_t>;

jit::Problem dense_1d1d(std::int64_t n, bool accumulate = false,
                        jit::OutputType out = jit::OutputType::kF32) {
  jit::Problem problem;
  problem.scaling = jit::Scaling::k1d1d;
  problem.sfa_major = jit::ScaleMajor::kM;
  problem.n = n;
  problem.k = 512;
  problem.out = out;
  problem.accumulate = accumulate;
  return problem;
}

jit::Problem grouped_k(jit::GroupForm form, std::int64_t n, bool accumulate = false,
                       jit::OutputType out = jit::OutputType::kF32) {
  jit::Problem problem = dense_1d1d(n, accumulate, out);
  problem.layout = jit::Layout::kGroupedK;
  problem.group_form = form;
  return problem;
}

constexpr auto kEnds = jit::GroupForm::kEnds;
constexpr auto kPacked = jit::GroupForm::kPacked;
constexpr auto kBf16 = jit::OutputType::kBf16;
constexpr auto kF32 = jit::OutputType::kF32;

}  // namespace

// ---- dense ----

TEST_CASE("dense 1d1d is exact for every M around the tile edges and any K", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int64_t m : {0, 1, 8, 63, 64, 65, 127, 128, 129, 200, 257, 1000})
    check_exact(gpu, {.problem = dense_1d1d(264), .sizes = {400}, .m = m});
  for (const std::int32_t k : {0, 16, 112, 128, 144, 1040, 4096})
    check_exact(gpu, {.problem = dense_1d1d(264), .sizes = {k}, .m = 77});
  for (const std::int64_t n : {8, 16, 136, 1000})
    check_exact(gpu, {.problem = dense_1d1d(n), .sizes = {272}, .m = 77});
}

TEST_CASE("dense 1d1d is exact for every mix of types, outputs and accumulation", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  using enum jit::Fp8Type;
  for (const auto& [a, b] :
       {std::pair(kE4m3, kE4m3), std::pair(kE5m2, kE4m3), std::pair(kE4m3, kE5m2)}) {
    for (const auto out : {kBf16, kF32}) {
      for (const bool accumulate : {false, true}) {
        jit::Problem problem = dense_1d1d(264, accumulate, out);
        problem.a = a;
        problem.b = b;
        for (const std::int32_t k : {0, 16, 656})
          check_exact(gpu, {.problem = problem, .sizes = {k}, .m = 150});
        check_random(gpu, {.problem = problem, .sizes = {1424}, .m = 150});
      }
    }
  }
}

TEST_CASE("a launch without a K of its own takes the problem's", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  GroupedGemm gemm(gpu, {.problem = dense_1d1d(264), .sizes = {512}, .m = 100});
  gemm.fill_exact();
  gemm.upload();
  kiln_operands operands = gemm.operands();
  operands.k = -1;
  KILN_CHECK_OK(kiln_launch(gemm.plan(), &operands, gpu.stream()));
  CHECK(gemm.defect() == "");
}

// ---- grouped_k ----

TEST_CASE("groups of K are exact in both forms, empty ones too", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const auto form : {kEnds, kPacked}) {
    for (const auto out : {kBf16, kF32}) {
      for (const bool accumulate : {false, true}) {
        const jit::Problem problem = grouped_k(form, 264, accumulate, out);
        for (const Sizes& sizes :
             {Sizes{128, 0, 256, 0, 0, 384, 128}, Sizes{0, 640, 0}, Sizes{0, 0, 0}, Sizes{128}})
          check_exact(gpu, {.problem = problem, .sizes = sizes, .m = 200});
        check_random(gpu, {.problem = problem, .sizes = {256, 0, 1024}, .m = 200});
      }
    }
  }
}

TEST_CASE("groups of K are exact for every M around the tile edges", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int64_t m : {0, 1, 8, 64, 65, 128, 129, 192, 257})
    for (const auto form : {kEnds, kPacked})
      check_exact(gpu, {.problem = grouped_k(form, 136, true), .sizes = {256, 128}, .m = m});
}

TEST_CASE("weight gradients of real layers are exact", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  struct Layer {
    std::int64_t m, n;
    Sizes sizes;
  };
  const std::vector<Layer> layers{
      {64, 768, {256, 128}},    {768, 1536, {128, 256}},
      {192, 3072, {128, 256}},  {768, 2048, {128, 128, 256, 256, 128, 256, 256, 256}},
      {1408, 1408, {384, 256}},
  };
  for (const Layer& layer : layers)
    for (const auto form : {kEnds, kPacked})
      check_exact(
          gpu,
          {.problem = grouped_k(form, layer.n, form == kEnds), .sizes = layer.sizes, .m = layer.m});
}

TEST_CASE("ends and packed operands of the same values give the same bits", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const bool accumulate : {false, true}) {
    std::vector<std::vector<std::byte>> results;
    for (const auto form : {kEnds, kPacked}) {
      GroupedGemm gemm(
          gpu,
          {.problem = grouped_k(form, 392, accumulate), .sizes = {384, 0, 128, 1280, 0}, .m = 300});
      gemm.fill_random();
      gemm.upload();
      gemm.launch();
      results.push_back(gemm.output_bytes());
      CHECK(gemm.defect() == "");
    }
    CHECK(results[0] == results[1]);
  }
}

TEST_CASE("any number of groups of K is exact, packed ones in several launches", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  std::mt19937_64 random(5);
  for (const std::size_t groups : {1u, 5u, 64u, 65u, 96u, 97u, 100u, 300u}) {
    Sizes sizes(groups);
    for (std::int32_t& size : sizes) size = 128 * static_cast<std::int32_t>(random() % 3);
    for (const auto form : {kEnds, kPacked})
      check_exact(gpu, {.problem = grouped_k(form, 40, true), .sizes = sizes, .m = 24});
  }
}

TEST_CASE("what a group's K lacks to a multiple of 128 may be zeros in one operand", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const bool accumulate : {false, true}) {
    const jit::Problem problem = grouped_k(kEnds, 264, accumulate);
    for (const std::int64_t slack : {0, 16, 64, 300})
      check_exact(
          gpu, {.problem = problem, .sizes = {16, 127, 0, 129, 1, 200}, .m = 200, .slack = slack});
    // The last group may end where the columns do, without any padding.
    check_exact(gpu, {.problem = problem, .sizes = {128, 272}, .m = 200});
  }
}

TEST_CASE("groups of K may go to slices of D in any order, and other slices are not touched",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const auto form : {kEnds, kPacked}) {
    for (const bool accumulate : {false, true}) {
      check_exact(gpu, {.problem = grouped_k(form, 136, accumulate),
                        .sizes = {128, 0, 256, 128},
                        .m = 130,
                        .experts = {4, 1, 6, 0},
                        .num_slices = 8});
    }
  }
}

TEST_CASE("weight gradients are exact on any number of SMs", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int32_t num_sms : {8, 9, 64}) {
    check_exact(gpu, {.problem = dense_1d1d(1000, true), .sizes = {400}, .m = 500}, num_sms);
    for (const auto form : {kEnds, kPacked})
      check_exact(gpu, {.problem = grouped_k(form, 520, true), .sizes = {128, 0, 256}, .m = 500},
                  num_sms);
  }
}

namespace {

void check_wgrad_tiles(Gpu& gpu, std::size_t at_most) {
  check_tiles(gpu, {.problem = dense_1d1d(520, true), .sizes = {400}, .m = 333}, at_most);
  check_tiles(gpu, {.problem = dense_1d1d(520, false, kBf16), .sizes = {400}, .m = 333}, at_most);
  for (const auto form : {kEnds, kPacked})
    check_tiles(gpu,
                {.problem = grouped_k(form, 520, form == kEnds), .sizes = {128, 0, 384}, .m = 333},
                at_most);
}

}  // namespace

TEST_CASE("tiles across the menu are exact for weight gradients", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  check_wgrad_tiles(gpu, 8);
}

// Hundreds of compiles: run it by name.
TEST_CASE("every tile of the menu is exact for weight gradients", "[.][all-tiles]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  check_wgrad_tiles(gpu, 100'000);
}

TEST_CASE("ends in K and experts out of range never write outside D", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  constexpr std::array<std::int32_t, 8> kWild{INT_MIN, -5,      0,           1,
                                              129,     1 << 20, INT_MAX - 1, INT_MAX};
  std::mt19937_64 random(4);
  for (const bool accumulate : {false, true}) {
    const GroupedCase test{.problem = grouped_k(kEnds, 136, accumulate),
                           .sizes = {128, 256, 0, 128},
                           .m = 130,
                           .slack = 64,
                           .experts = {0, 1, 2, 3},
                           .fill_all = true};
    GroupedGemm gemm(gpu, test);
    gemm.fill_exact();
    gemm.upload();
    const Sizes good = gemm.grouping();
    for (int round = 0; round < 40; ++round) {
      Sizes ends = good, experts = test.experts;
      if (round % 3 != 0)
        for (std::int32_t& end : ends) end = kWild[random() % kWild.size()];
      if (round % 3 != 1)
        for (std::int32_t& expert : experts) expert = kWild[random() % kWild.size()];
      check_broken_contract(gemm, ends, experts);
    }
    gemm.reset_output();
    gemm.set_grouping(good);
    gemm.set_experts(test.experts);
    gemm.launch();
    CHECK(gemm.defect() == "");
  }
}

TEST_CASE("weight gradients of more than 2^31 elements are addressed right", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  if (gpu.device().info().memory_bytes < std::int64_t{24} << 30)
    KILN_SKIP("the GPU has less than 24 GiB");
  constexpr std::int64_t kFar = std::int64_t{1} << 31, kM = 70'000, kN = 64, kK = 256,
                         kLda = 32'768;
  static_assert(kM * kLda > kFar);
  const runtime::Device& device = gpu.device();
  // A row m of A holds the one value of m; B holds 1 for the first group and 2 for the second.
  const auto value = [](std::int64_t row) { return static_cast<float>(row % 7 - 3); };
  runtime::DeviceBuffer a(device, kM * kLda), d(device, (kFar + kM * kN) * 4);
  a.fill(kPoison, gpu.stream());
  d.fill(0, gpu.stream());
  gpu.synchronize();
  const std::vector<std::int64_t> rows{0, 1, 65'535, 65'536, kM - 1};
  for (const std::int64_t row : rows) {
    const std::vector<std::uint8_t> codes(kK, encode_fp8(value(row), kE4m3Format));
    a.upload(std::as_bytes(std::span(codes)), static_cast<std::size_t>(row * kLda));
  }
  std::vector<std::uint8_t> codes(kN * kK, encode_fp8(1, kE4m3Format));
  for (std::size_t i = 0; i < codes.size(); ++i)
    if (i % kK >= 128) codes[i] = encode_fp8(2, kE4m3Format);
  const auto b = runtime::DeviceBuffer::of(device, codes);
  const auto sfa = runtime::DeviceBuffer::of(device, std::vector<float>(2 * kM, 1.0f));
  const auto sfb = runtime::DeviceBuffer::of(device, std::vector<float>(2 * kN, 1.0f));
  const auto ends = runtime::DeviceBuffer::of(device, Sizes{128, 256});
  jit::Problem problem = grouped_k(kEnds, kN, true);
  problem.groups = 2;
  const kiln_problem wanted = c_problem(problem);
  kiln_plan* plan = nullptr;
  KILN_CHECK_OK(kiln_plan_create(gpu.handle(), &wanted, nullptr, &plan));
  kiln_operands o = KILN_OPERANDS_INIT;
  o.m = kM;
  o.k = kK;
  o.a = a.data();
  o.lda = kLda;
  o.b = b.data();
  o.ldb = kK;
  o.sfa = sfa.data<float>();
  o.ld_sfa = kM;
  o.sfb = sfb.data<float>();
  o.ld_sfb = kN;
  o.d = d.data();
  o.ldd = kN;
  o.d_group_stride = kFar;
  o.grouping = ends.data<std::int32_t>();
  KILN_CHECK_OK(kiln_launch(plan, &o, gpu.stream()));
  gpu.synchronize();
  kiln_plan_destroy(plan);
  for (const std::int64_t group : {0, 1}) {
    for (const std::int64_t row : rows) {
      std::vector<float> got(kN);
      d.download(std::as_writable_bytes(std::span(got)),
                 static_cast<std::size_t>(group * kFar + row * kN) * 4);
      const float expected = value(row) * 128 * static_cast<float>(group + 1);
      CHECK(std::count(got.begin(), got.end(), expected) == kN);
    }
  }
}

}  // namespace kiln::test
