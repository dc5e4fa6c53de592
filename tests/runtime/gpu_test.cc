// The dense GEMM on a real GPU, through the C API. Every operand is surrounded and padded with NaN.
#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "jit/tile.h"
#include "tests/runtime/gpu_support.h"

namespace kiln::test {
namespace {

jit::Problem problem_of(std::int64_t n, std::int64_t k) {
  jit::Problem problem;
  problem.n = n;
  problem.k = k;
  return problem;
}

std::string describe(const GemmCase& test) {
  return "m=" + std::to_string(test.m) + " " + jit::describe(test.problem) +
         (test.tile ? " tile " + jit::describe(*test.tile) : std::string());
}

void check_exact(Gpu& gpu, const GemmCase& test) {
  INFO(describe(test));
  GemmData data(gpu, test);
  data.fill_exact();
  data.upload();
  data.launch();
  CHECK(data.download());
  CHECK(data.mismatches() == 0);
}

void check_random(Gpu& gpu, const GemmCase& test) {
  INFO(describe(test));
  GemmData data(gpu, test);
  data.fill_random();
  data.upload();
  data.launch();
  CHECK(data.download());
  CHECK(data.difference() < 0.001);
  CHECK(data.elements_out_of_bounds() == 0);
}

// Some of the menu, evenly spread, and every kind of cluster.
std::vector<jit::Tile> sample_of(const std::vector<jit::Tile>& tiles, std::size_t at_most) {
  std::vector<jit::Tile> sample;
  const std::size_t step = std::max<std::size_t>(1, tiles.size() / at_most);
  for (std::size_t i = 0; i < tiles.size(); i += step) sample.push_back(tiles[i]);
  for (const auto& [cluster_m, cluster_n] :
       {std::pair(2, 1), std::pair(1, 2), std::pair(2, 2), std::pair(4, 1)}) {
    jit::Tile tile;
    tile.cluster_m = cluster_m;
    tile.cluster_n = cluster_n;
    sample.push_back(tile);
  }
  return sample;
}

void check_tiles(Gpu& gpu, std::size_t at_most) {
  for (const bool f32 : {false, true}) {
    jit::Problem problem = problem_of(520, 400);
    problem.out = f32 ? jit::OutputType::kF32 : jit::OutputType::kBf16;
    problem.accumulate = f32;
    problem.sfa_major = f32 ? jit::ScaleMajor::kM : jit::ScaleMajor::kRow;
    for (const jit::Tile& tile : sample_of(jit::legal_tiles(problem), at_most)) {
      if (!jit::is_legal(tile, problem)) continue;
      check_exact(gpu, {problem, 333, tile});
    }
  }
}

}  // namespace

TEST_CASE("small integers give exactly the right bits for every M around the tile edges", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int64_t m :
       {0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257, 1000, 2049}) {
    check_exact(gpu, {problem_of(576, 512), m, {}, static_cast<std::uint64_t>(m)});
  }
}

TEST_CASE("small integers give exactly the right bits for ragged N and K", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int64_t n : {8, 16, 120, 128, 136, 1000}) {
    for (const std::int64_t k : {16, 112, 128, 144, 1040}) check_exact(gpu, {problem_of(n, k), 77});
  }
}

TEST_CASE("every mix of types, outputs, accumulation and scale layouts is exact", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const auto a : {jit::Fp8Type::kE4m3, jit::Fp8Type::kE5m2}) {
    for (const auto b : {jit::Fp8Type::kE4m3, jit::Fp8Type::kE5m2}) {
      for (const auto major : {jit::ScaleMajor::kRow, jit::ScaleMajor::kM}) {
        for (const int out : {0, 1, 2}) {
          jit::Problem problem = problem_of(264, 656);
          problem.a = a;
          problem.b = b;
          problem.sfa_major = major;
          problem.out = out == 0 ? jit::OutputType::kBf16 : jit::OutputType::kF32;
          problem.accumulate = out == 2;
          for (const std::int64_t m : {5, 150}) check_exact(gpu, {problem, m});
        }
      }
    }
  }
}

TEST_CASE("random values stay close to a reference in double precision", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int64_t m : {1, 33, 128, 300}) {
    for (const auto major : {jit::ScaleMajor::kRow, jit::ScaleMajor::kM}) {
      jit::Problem problem = problem_of(392, 1424);
      problem.sfa_major = major;
      check_random(gpu, {problem, m});
      problem.out = jit::OutputType::kF32;
      problem.a = jit::Fp8Type::kE5m2;
      problem.accumulate = true;
      check_random(gpu, {problem, m});
    }
  }
}

TEST_CASE("tiles across the menu and every kind of cluster are exact", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  check_tiles(gpu, 12);
}

// Hundreds of compiles: run it by name.
TEST_CASE("every tile of the menu is exact", "[.][all-tiles]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  check_tiles(gpu, 100'000);
}

TEST_CASE("tiles for few rows, with parts of K and several k-blocks to a stage, are exact",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  const auto check = [&](const jit::Problem& problem, std::int64_t m, const char* tile) {
    check_exact(gpu, {problem, m, jit::parse_tile(tile, "tile")});
  };
  for (const bool f32 : {false, true}) {
    for (const auto major : {jit::ScaleMajor::kRow, jit::ScaleMajor::kM}) {
      jit::Problem problem = problem_of(264, 3328);  // 26 k-blocks: the last part has fewer
      problem.sfa_major = major;
      problem.out = f32 ? jit::OutputType::kF32 : jit::OutputType::kBf16;
      problem.accumulate = f32;
      for (const std::int64_t m : {1, 8, 20}) {  // 20: several tile rows, several tiles to a CTA
        check(problem, m, "8x16/1x1x2/s14x2/c1x1/r1");
        check(problem, m, "8x32/1x1x4/s8/c1x1x2/r1");
        check(problem, m, "8x24/1x1x2/s2x4/c1x1x4/r8");
        check(problem, m, "16x48/1x1/s3x8/c1x1/r1");
        check(problem, m, "32x96/1x2x2/s4x2/c1x1x2/r1");
      }
      for (const std::int64_t m : {50, 130}) {
        check(problem, m, "64x64/1x1x2/s4x2/c1x1x4/r1");
        check(problem, m, "64x112/1x1/s5/c1x1x4/r1");
        check(problem, m, "128x64/2x1/s3x2/c1x1x2/r1");
        check(problem, m, "128x80/2x1x2/s4/c1x1x4/r1");
        check(problem, m, "64x16/1x1x3/s6/c1x1/r8");
      }
      problem.k = 1040;  // no whole k-blocks
      check(problem, 3, "8x32/1x1x2/s4/c1x1x4/r1");
      check(problem, 70, "128x32/2x1/s5/c1x1x2/r1");
    }
  }
}

TEST_CASE("parts of K meet in the same order on every repeat and on any number of SMs", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const char* tile : {"8x32/1x1x2/s6x2/c1x1x4/r1", "128x64/2x1/s3x2/c1x1x2/r1"}) {
    GemmData data(gpu, {problem_of(2112, 7168), 100, jit::parse_tile(tile, "tile")});
    data.fill_random();
    data.upload();
    data.launch();
    REQUIRE(data.download());
    const std::vector<std::byte> first = data.d16.bytes();
    for (int i = 0; i < 40; ++i) {
      data.upload();
      data.launch(0, i % 4 == 0 ? 4 + i : 0);  // a few SMs: each cluster has many tiles
      REQUIRE(data.download());
      CHECK(data.d16.bytes() == first);
    }
  }
}

TEST_CASE("the same operands give the same bits on every repeat and on any number of SMs",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int64_t m : {3, 200, 2500}) {
    GemmData data(gpu, {problem_of(1544, 2064), m});
    data.fill_random();
    data.upload();
    data.launch();
    REQUIRE(data.download());
    const std::vector<std::byte> first = data.d16.bytes();
    for (const int num_sms : {0, 0, 0, 0, 64, 9, 8}) {
      data.upload();  // the first result is overwritten, whatever happens
      data.launch(0, num_sms);
      REQUIRE(data.download());
      CHECK(data.d16.bytes() == first);
    }
  }
}

TEST_CASE("launches back to back, also with programmatic launch, each see the one before",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  jit::Problem problem = problem_of(264, 512);
  problem.out = jit::OutputType::kF32;
  problem.accumulate = true;
  for (const std::uint32_t flags : {0u, static_cast<std::uint32_t>(KILN_LAUNCH_PROGRAMMATIC)}) {
    constexpr int kTimes = 10;
    GemmData data(gpu, {problem, 300});
    data.fill_exact();
    data.upload();
    for (int i = 0; i < kTimes; ++i) data.launch(flags);
    REQUIRE(data.download());
    std::int64_t wrong = 0;
    for (std::int64_t row = 0; row < 300; ++row) {
      for (std::int64_t col = 0; col < problem.n; ++col) {
        const double once = data.reference(row, col) - data.c.at(row, col);
        wrong += data.result(row, col) != once * kTimes + data.c.at(row, col);
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("a NaN in a row of A makes that row NaN and touches no other", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const std::int64_t bad_row : {0, 70, 129}) {
    GemmData data(gpu, {problem_of(136, 400), 130});
    data.fill_exact();
    data.a.at(bad_row, 399) = kFp8NaN;
    data.upload();
    data.launch();
    REQUIRE(data.download());
    std::int64_t wrong = 0;
    for (std::int64_t row = 0; row < 130; ++row) {
      for (std::int64_t col = 0; col < 136; ++col) {
        const double got = data.result(row, col);
        wrong +=
            row == bad_row
                ? !std::isnan(got)
                : got != bf16_to_float(float_to_bf16(static_cast<float>(data.reference(row, col))));
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("operands and results of more than 2^31 elements are addressed right", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  constexpr std::int64_t kM = 70'000, kN = 32'768, kK = 128, kLda = 32'768;
  static_assert(kM * kN > std::int64_t{1} << 31 && kM * kLda > std::int64_t{1} << 31);
  if (gpu.device().info().memory_bytes < std::int64_t{12} << 30)
    KILN_SKIP("the GPU has less than 12 GiB");
  // A row m of A holds the one value of m, so that its row of D is known.
  const auto value = [](std::int64_t row) { return static_cast<float>(row % 7 - 3); };
  const runtime::Device& device = gpu.device();
  runtime::DeviceBuffer a(device, kM * kLda), d(device, kM * kN * 2);
  a.fill(kPoison, gpu.stream());
  gpu.synchronize();
  for (const std::int64_t row :
       {std::int64_t{0}, std::int64_t{1}, std::int64_t{65'535}, std::int64_t{65'536}, kM - 1}) {
    const std::vector<std::byte> bytes(kK,
                                       static_cast<std::byte>(encode_fp8(value(row), kE4m3Format)));
    a.upload(bytes, static_cast<std::size_t>(row * kLda));
  }
  const auto b = runtime::DeviceBuffer::of(
      device, std::vector<std::uint8_t>(kN * kK, encode_fp8(1, kE4m3Format)));
  const auto sfa = runtime::DeviceBuffer::of(device, std::vector<float>(kM, 1.0f));
  const auto sfb = runtime::DeviceBuffer::of(device, std::vector<float>(kN / 128, 1.0f));
  kiln_problem problem = KILN_PROBLEM_INIT;
  problem.n = kN;
  problem.k = kK;
  kiln_plan* plan = nullptr;
  KILN_CHECK_OK(kiln_plan_create(gpu.handle(), &problem, nullptr, &plan));
  kiln_operands o = KILN_OPERANDS_INIT;
  o.m = kM;
  o.a = a.data();
  o.lda = kLda;
  o.b = b.data();
  o.ldb = kK;
  o.sfa = sfa.data<float>();
  o.sfb = sfb.data<float>();
  o.ld_sfa = o.ld_sfb = 1;
  o.d = d.data();
  o.ldd = kN;
  KILN_CHECK_OK(kiln_launch(plan, &o, gpu.stream()));
  gpu.synchronize();
  kiln_plan_destroy(plan);
  for (const std::int64_t row :
       {std::int64_t{0}, std::int64_t{1}, std::int64_t{65'535}, std::int64_t{65'536}, kM - 1}) {
    std::vector<std::uint16_t> got(kN);
    d.download(std::as_writable_bytes(std::span(got)), static_cast<std::size_t>(row * kN * 2));
    const std::uint16_t expected = float_to_bf16(value(row) * kK);
    CHECK(std::count(got.begin(), got.end(), expected) == kN);
  }
}

TEST_CASE("prepared launches are captured, misses are NOT_READY and leave the capture valid",
          "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  const auto begin =
      driver_call<CUresult(CUstream, CUstreamCaptureMode)>(gpu, "cuStreamBeginCapture_v2");
  const auto end = driver_call<CUresult(CUstream, CUgraph*)>(gpu, "cuStreamEndCapture");
  const auto instantiate = driver_call<CUresult(CUgraphExec*, CUgraph, unsigned long long)>(
      gpu, "cuGraphInstantiateWithFlags");
  const auto launch_graph = driver_call<CUresult(CUgraphExec, CUstream)>(gpu, "cuGraphLaunch");
  GemmData ready(gpu, {problem_of(264, 512), 100}), missing(gpu, {problem_of(280, 528), 100});
  GemmData loaded_meanwhile(gpu, {problem_of(296, 544), 100});
  ready.fill_exact();
  ready.upload();
  KILN_CHECK_OK(kiln_plan_prepare(ready.plan(), 100, 100));
  for (const auto mode : {CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
                          CU_STREAM_CAPTURE_MODE_RELAXED}) {
    const runtime::ContextScope scope(gpu.device().driver(), gpu.device().context());
    CUgraph graph = nullptr;
    CUgraphExec executable = nullptr;
    REQUIRE(begin(gpu.stream(), mode) == CUDA_SUCCESS);
    const kiln_operands good = ready.operands(), miss = missing.operands();
    CHECK(kiln_launch(ready.plan(), &good, gpu.stream()) == KILN_OK);
    CHECK(kiln_launch(missing.plan(), &miss, gpu.stream()) == KILN_ERROR_NOT_READY);
    // The capture of a non-blocking stream cannot be seen from here, and loading does not disturb
    // it.
    CHECK(kiln_plan_prepare(loaded_meanwhile.plan(), 100, 100) == KILN_OK);
    REQUIRE(end(gpu.stream(), &graph) == CUDA_SUCCESS);
    REQUIRE(instantiate(&executable, graph, 0) == CUDA_SUCCESS);
    ready.upload();
    REQUIRE(launch_graph(executable, gpu.stream()) == CUDA_SUCCESS);
    CHECK(ready.download());
    CHECK(ready.mismatches() == 0);
  }
}

TEST_CASE("the caller's context is the same after every call on the GPU", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  const runtime::Driver& driver = gpu.device().driver();
  CUcontext before = nullptr, after = nullptr;
  REQUIRE(driver.cuCtxGetCurrent(&before) == CUDA_SUCCESS);
  check_exact(gpu, {problem_of(264, 512), 10});
  REQUIRE(driver.cuCtxGetCurrent(&after) == CUDA_SUCCESS);
  CHECK(before == after);
}

}  // namespace kiln::test
