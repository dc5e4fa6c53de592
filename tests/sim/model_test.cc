// What the simulator promises beside right results: schedules that can be repeated, and refusals
// instead of guesses.
#include "tests/sim/sim_cases.h"
#include "tests/sim/sim_support.h"
#include "tools/sim/embedded.h"

namespace kiln::test {
namespace {

std::string template_text(std::string_view name) {
  for (const jit::TemplateFile& file : jit::template_files())
    if (file.name == name) return std::string(file.text);
  FAIL("no template is called " << name);
  return "";
}

// What a launch says when `statement` stands at the end of release() in gemm_multiply.cuh.
std::string message_with(const std::string& statement) {
  std::string text = template_text("gemm_multiply.cuh");
  const std::string anchor = "if (c.lane == 0) mbarrier_arrive(empty);";
  const std::size_t at = text.find(anchor);
  REQUIRE(at != std::string::npos);
  Simulator simulator({{"gemm_multiply.cuh", text.insert(at + anchor.size(), statement)}});
  SimCase sim_case(simulator, dense_cases().front().test);
  return sim_case.launch(1);
}

}  // namespace

TEST_CASE("a seed is a schedule: the same again, and another for another seed", "[sim]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  SimCase sim_case(simulator, dense_cases().front().test);
  const auto switches = [&](std::uint64_t seed) {
    REQUIRE(sim_case.launch(seed) == "");
    CHECK(simulator.control().loads > 0);
    CHECK(simulator.control().mmas > 0);
    CHECK(simulator.control().stores > 0);
    CHECK(simulator.control().copies > 0);
    return simulator.control().switches;
  };
  const std::uint64_t first = switches(1), other = switches(3);
  CHECK(first > 10'000);
  CHECK(switches(1) == first);
  CHECK(other != first);
}

TEST_CASE("inline assembly that is not modelled is refused by its name", "[sim]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  (void)simulator;
  const std::string message = message_with(" asm volatile(\"bar.sync 1, 128;\");");
  INFO(message);
  CHECK(message.find("gemm_multiply.cuh: the simulator does not model inline assembly") != message.npos);
  CHECK(message.find("bar.sync 1, 128;") != message.npos);
  CHECK(message.find("tools/sim/kernel_side/ptx.cuh") != message.npos);
}

TEST_CASE("an instruction that only the real ptx.cuh has is refused by its name", "[sim]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  (void)simulator;
  const std::string message = message_with(" fence_acquire();");
  INFO(message);
  CHECK(message.find("fence_acquire") != message.npos);
  CHECK(message.find("must be added to tools/sim/kernel_side/ptx.cuh") != message.npos);
}

TEST_CASE("every function of ptx.cuh is there for the simulator", "[sim]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  (void)simulator;
  const std::string real = template_text("ptx.cuh");
  std::string modelled;
  for (const sim::EmbeddedFile& file : sim::kernel_side_files())
    if (file.name == "ptx.cuh") modelled = file.text;
  std::size_t functions = 0;
  for (std::size_t at = real.find("KILN_DEVICE"); at != real.npos;
       at = real.find("KILN_DEVICE", at + 1)) {
    const std::size_t open = real.find('(', at);
    const std::size_t begin = real.rfind(' ', open) + 1;
    const std::string name = real.substr(begin, open - begin);
    INFO(name);
    CHECK(modelled.find(" " + name + "(") != modelled.npos);
    ++functions;
  }
  CHECK(functions > 30);
}

}  // namespace kiln::test
