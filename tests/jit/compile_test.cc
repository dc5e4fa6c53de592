// Real compiles: every template with each NVRTC at hand, and the whole menu of tiles, without a
// spill.
#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "jit/compiler.h"
#include "jit/error.h"
#include "tests/jit/nvrtc_paths.h"
#include "tests/support/catch.h"

using namespace kiln;
using namespace kiln::jit;

namespace {

// What is wrong with a compiled kernel; empty when nothing is.
std::string defect(const CompiledKernel& kernel) {
  const Resources& r = kernel.resources;
  if (r.registers == 0) return "no resource report in the log";
  if (r.spill_store_bytes + r.spill_load_bytes + r.stack_bytes > 0) return "spills:\n" + kernel.log;
  for (const char* warning : {"C7508", "C7514", "warning"})  // setmaxnreg ignored, WGMMA serialised
    if (kernel.log.find(warning) != std::string::npos) return kernel.log;
  return {};
}

// Compiles all on two threads; returns the complaints, each beginning with the kernel's name.
std::vector<std::string> compile_all(Compiler& compiler, const std::vector<KernelSpec>& specs) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::vector<std::string> complaints;
  const auto work = [&] {
    for (std::size_t i = next++; i < specs.size(); i = next++) {
      std::string complaint;
      const Source source = render(specs[i]);
      try {
        complaint = defect(compiler.compile(source));
      } catch (const Error& error) {
        complaint = error.what();
      }
      const std::lock_guard lock(mutex);
      if (!complaint.empty()) complaints.push_back(source.entry + ": " + complaint);
    }
  };
  std::thread other(work);
  work();
  other.join();
  return complaints;
}

// Each kernel family once or twice per switch that its template has.
std::vector<KernelSpec> every_template() {
  std::vector<KernelSpec> specs;
  for (const QuantizeInput in : {QuantizeInput::kBf16, QuantizeInput::kF32})
    for (const Fp8Type out : {Fp8Type::kE4m3, Fp8Type::kE5m2}) {
      specs.push_back(
          {QuantizeSpec{in, out, ScaleGranularity::k1x128, ScaleMajor::kRow, false}, {}});
      specs.push_back({QuantizeSpec{in, out, ScaleGranularity::k1x128, ScaleMajor::kM, true}, {}});
      specs.push_back(
          {QuantizeSpec{in, out, ScaleGranularity::k128x128, ScaleMajor::kRow, true}, {}});
    }
  specs.push_back({FillSpec{}, {}});
  for (const Fp8Type a : {Fp8Type::kE4m3, Fp8Type::kE5m2})
    for (const Fp8Type b : {Fp8Type::kE4m3, Fp8Type::kE5m2})
      for (const auto& [out, accumulate] : {std::pair{OutputType::kBf16, false},
                                            {OutputType::kF32, false},
                                            {OutputType::kF32, true}})
        for (const ScaleMajor major : {ScaleMajor::kRow, ScaleMajor::kM}) {
          const Problem p{.n = 576,
                          .k = 1040,
                          .a = a,
                          .b = b,
                          .out = out,
                          .sfa_major = major,
                          .accumulate = accumulate};
          specs.push_back({GemmSpec{p, {128, 96, 2, 1, 4, 1, 1, 8}}, {}});
          if (!accumulate) specs.push_back({ReferenceSpec{p}, {}});
        }
  return specs;
}

// A problem of each grouped layout and form and of 1d1d, so that every type, output, accumulation
// and scale layout occurs.
std::vector<Problem> every_layout() {
  const auto row_groups = [](Layout layout, GroupForm form, std::int32_t groups) {
    return Problem{.layout = layout,
                   .n = 4096,
                   .k = 7168,
                   .group_form = form,
                   .groups = groups,
                   .alignment = layout == Layout::kGroupedContiguous ? 128 : 0};
  };
  const auto gradient = [](Layout layout, GroupForm form, OutputType out, bool accumulate) {
    return Problem{.layout = layout,
                   .scaling = Scaling::k1d1d,
                   .n = 7168,
                   .k = 4096,
                   .out = out,
                   .sfa_major = ScaleMajor::kM,
                   .accumulate = accumulate,
                   .group_form = form};
  };
  using enum Layout;
  using enum GroupForm;
  std::vector<Problem> problems{row_groups(kGroupedContiguous, kEnds, 8),
                                row_groups(kGroupedContiguous, kLabels, 300),
                                row_groups(kGroupedMasked, kRows, 32),
                                row_groups(kGroupedMasked, kRows, 65),
                                gradient(kDense, kNone, OutputType::kF32, true),
                                gradient(kDense, kNone, OutputType::kBf16, false),
                                gradient(kGroupedK, kEnds, OutputType::kF32, true),
                                gradient(kGroupedK, kPacked, OutputType::kF32, false),
                                gradient(kGroupedK, kEnds, OutputType::kBf16, true)};
  problems[1].sfa_major = problems[3].sfa_major = ScaleMajor::kM;
  problems[1].out = OutputType::kF32;
  problems[1].accumulate = problems[3].accumulate = true;
  problems[2].a = problems[6].b = Fp8Type::kE5m2;
  return problems;
}

// What the engine chooses for few rows and for many, and some of the menu.
std::vector<KernelSpec> representative(const Problem& problem, std::size_t of_menu) {
  std::vector<Tile> tiles{choose_tile(problem, 64, {}), choose_tile(problem, 4096, {})};
  const std::vector<Tile> menu = legal_tiles(problem);
  for (std::size_t i = 1; i <= of_menu; ++i) tiles.push_back(menu[i * menu.size() / (of_menu + 1)]);
  std::sort(tiles.begin(), tiles.end());
  tiles.erase(std::unique(tiles.begin(), tiles.end()), tiles.end());
  std::vector<KernelSpec> specs;
  for (const Tile& tile : tiles) specs.push_back({GemmSpec{canonical(problem), tile}, {}});
  return specs;
}

// Tiles whose warpgroups take their columns in passes: they have no register to spare.
std::vector<KernelSpec> in_passes(const Problem& problem) {
  std::vector<KernelSpec> specs;
  for (const char* const text : {"128x192/2x1", "128x256/2x1/s2/c2x1"}) {
    Tile tile = parse_tile(text, "tile");
    tile.stages = most_stages(tile, problem);
    if (passes(tile, problem) > 1 && is_legal(tile, problem))
      specs.push_back({GemmSpec{canonical(problem), tile}, {}});
  }
  return specs;
}

std::vector<KernelSpec> whole_menu(const Problem& problem) {
  std::vector<KernelSpec> specs;
  for (const Tile& tile : legal_tiles(problem)) specs.push_back({GemmSpec{problem, tile}, {}});
  return specs;
}

}  // namespace

TEST_CASE("every template compiles without a spill with each NVRTC at hand", "[compile]") {
  const std::vector<std::string> paths = test::nvrtc_paths();
  if (paths.empty()) KILN_SKIP("no NVRTC on this machine");
  for (const std::string& path : paths) {
    const auto compiler = open_nvrtc({path, {}});
    INFO(compiler->fingerprint());
    for (const std::string& complaint : compile_all(*compiler, every_template()))
      FAIL_CHECK(complaint);
  }
}

TEST_CASE("every tile of the menu compiles without a spill", "[compile]") {
  const std::vector<std::string> paths = test::nvrtc_paths();
  if (paths.empty()) KILN_SKIP("no NVRTC on this machine");
  const auto compiler = open_nvrtc({paths.back(), {}});
  for (const std::string& complaint : compile_all(*compiler, whole_menu({.n = 7168, .k = 2048})))
    FAIL_CHECK(complaint);
}

TEST_CASE(
    "every layout, form of groups and scaling compiles without a spill with each NVRTC at hand",
    "[compile]") {
  const std::vector<std::string> paths = test::nvrtc_paths();
  if (paths.empty()) KILN_SKIP("no NVRTC on this machine");
  for (const std::string& path : paths) {
    const auto compiler = open_nvrtc({path, {}});
    INFO(compiler->fingerprint());
    std::vector<KernelSpec> specs;
    for (const Problem& problem : every_layout()) {
      for (const KernelSpec& spec : representative(problem, path == paths.back() ? 1 : 0))
        specs.push_back(spec);
      for (const KernelSpec& spec : in_passes(problem)) specs.push_back(spec);
    }
    for (const std::string& complaint : compile_all(*compiler, specs)) FAIL_CHECK(complaint);
  }
}

// Not on the menu of row groups, where 3 stages leave more room for D, but in tuned tables, whose
// tiles also serve problems with another K.
TEST_CASE("tall tiles of row groups compile without a spill however short K is", "[compile]") {
  const std::vector<std::string> paths = test::nvrtc_paths();
  if (paths.empty()) KILN_SKIP("no NVRTC on this machine");
  const auto compiler = open_nvrtc({paths.back(), {}});
  std::vector<KernelSpec> specs;
  for (const std::int64_t k : {512, 1024, 2048, 2560, 3072}) {
    const Problem p{.layout = Layout::kGroupedMasked,
                    .n = 7168,
                    .k = k,
                    .group_form = GroupForm::kRows,
                    .groups = 64};
    for (const char* tile : {"128x256/1x2/s4/c2x1/r1", "256x128/2x1/s4/c1x2/r7"})
      specs.push_back({GemmSpec{p, parse_tile(tile, "tile")}, {}});
  }
  for (const std::string& complaint : compile_all(*compiler, specs)) FAIL_CHECK(complaint);
}

// A thousand compiles: run it by name.
TEST_CASE("every tile of every layout's menu compiles without a spill", "[.][all-tiles]") {
  const std::vector<std::string> paths = test::nvrtc_paths();
  if (paths.empty()) KILN_SKIP("no NVRTC on this machine");
  const auto compiler = open_nvrtc({paths.back(), {}});
  for (const Problem& problem : every_layout()) {
    INFO(describe(problem));
    for (const std::string& complaint : compile_all(*compiler, whole_menu(problem)))
      FAIL_CHECK(complaint);
  }
}

TEST_CASE("every unclustered tile for accumulated FP32 compiles without a spill", "[compile]") {
  const std::vector<std::string> paths = test::nvrtc_paths();
  if (paths.empty()) KILN_SKIP("no NVRTC on this machine");
  const auto compiler = open_nvrtc({paths.front(), {}});
  const Problem p{.n = 2112,
                  .k = 7168,
                  .out = OutputType::kF32,
                  .sfa_major = ScaleMajor::kM,
                  .accumulate = true};
  std::vector<KernelSpec> specs;
  for (const KernelSpec& spec : whole_menu(p))
    if (const Tile& t = std::get<GemmSpec>(spec.kernel).tile; t.cluster_m * t.cluster_n == 1)
      specs.push_back(spec);
  for (const std::string& complaint : compile_all(*compiler, specs)) FAIL_CHECK(complaint);
}

TEST_CASE("the same source gives the same bytes, from any thread and any compiler object",
          "[compile]") {
  for (const std::string& path : test::nvrtc_paths()) {
    const Source source = render({GemmSpec{{.n = 576, .k = 1040}, {64, 96, 1, 1, 4, 1, 1, 8}}, {}});
    const auto first = open_nvrtc({path, {}}), second = open_nvrtc({path, {}});
    const std::vector<std::byte> expected = first->compile(source).cubin;
    CHECK(second->compile(source).cubin == expected);
    std::vector<std::byte> from_thread;
    std::thread thread([&] { from_thread = first->compile(source).cubin; });
    CHECK(second->compile(source).cubin == expected);
    thread.join();
    CHECK(from_thread == expected);
  }
}
