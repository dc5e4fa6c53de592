// Real compiles: every template with each NVRTC at hand, and the whole menu of tiles, without a
// spill.
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
