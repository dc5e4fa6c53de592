// The two-way casts: their rendered programs, and real compiles of every one of them.
#include <set>

#include "jit/compiler.h"
#include "jit/error.h"
#include "tests/jit/nvrtc_paths.h"
#include "tests/support/catch.h"

using namespace kiln;
using namespace kiln::jit;

namespace {

std::vector<QuantizeSpec> two_way_casts() {
  std::vector<QuantizeSpec> specs;
  for (const Fp8Type out : {Fp8Type::kE4m3, Fp8Type::kE5m2})
    for (const bool power_of_two : {false, true})
      for (const auto& [granularity, major] :
           {std::pair{ScaleGranularity::k1x128, ScaleMajor::kRow},
            std::pair{ScaleGranularity::k1x128, ScaleMajor::kM},
            std::pair{ScaleGranularity::k128x128, ScaleMajor::kRow}})
        specs.push_back(
            {QuantizeInput::kBf16, out, granularity, major, power_of_two, /*two_way=*/true});
  return specs;
}

}  // namespace

TEST_CASE("every two-way cast is a program of its own, apart from the one-way cast", "[source]") {
  std::set<std::string> texts, names, descriptions;
  std::size_t count = 0;
  for (QuantizeSpec spec : two_way_casts()) {
    for (const bool two_way : {true, false}) {
      spec.two_way = two_way;
      const Source source = render({spec, {}});
      texts.insert(source.text);
      names.insert(source.entry);
      descriptions.insert(describe(KernelSpec{spec, {}}));
      CHECK((source.entry.find("_two_way") != std::string::npos) == two_way);
      CHECK((source.text.find("kInBf16") == std::string::npos) == two_way);
      ++count;
    }
  }
  CHECK(texts.size() == count);
  CHECK(names.size() == count);
  CHECK(descriptions.size() == count);
}

TEST_CASE("a two-way cast of FP32 is refused with a remedy", "[source]") {
  const QuantizeSpec spec{.in = QuantizeInput::kF32, .two_way = true};
  try {
    render({spec, {}});
    FAIL("rendered");
  } catch (const Error& error) {
    CHECK(error.status() == Status::kInvalidArgument);
    const std::string message = error.what();
    INFO(message);
    CHECK(message.find("two_way must be 0 unless in_type is bf16, got 1 with f32") == 0);
    CHECK(message.find("convert the matrix to bf16 first") != std::string::npos);
  }
}

TEST_CASE(
    "every two-way cast compiles without a spill, four CTAs to an SM, with each NVRTC at hand",
    "[compile]") {
  const std::vector<std::string> paths = test::nvrtc_paths();
  if (paths.empty()) KILN_SKIP("no NVRTC on this machine");
  for (const std::string& path : paths) {
    const auto compiler = open_nvrtc({path, {}});
    for (const QuantizeSpec& spec : two_way_casts()) {
      const Source source = render({spec, {}});
      const CompiledKernel kernel = compiler->compile(source);
      const Resources& r = kernel.resources;
      INFO(compiler->fingerprint() << ", " << source.entry << ":\n" << kernel.log);
      CHECK(r.registers > 0);
      CHECK(r.registers * source.launch.threads * 4 <= 64 * 1024);
      CHECK(r.static_smem_bytes * 4 <= 227 * 1024);
      CHECK(r.spill_store_bytes + r.spill_load_bytes + r.stack_bytes == 0);
      CHECK(kernel.log.find("warning") == std::string::npos);
    }
  }
}
