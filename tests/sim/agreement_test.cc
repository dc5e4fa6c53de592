// The simulator against recorded results, and against a GPU where there is one.
#include <cstdio>
#include <cstdlib>

#include "tests/sim/exact_results.h"
#include "tests/sim/sim_cases.h"
#include "tests/sim/sim_support.h"

namespace kiln::test {
namespace {

std::uint64_t recorded(const std::string& name) {
  for (const ExactResult& result : kExactResults)
    if (result.name == name) return result.hash;
  return 0;
}

void check_random_case(Gpu& gpu, const NamedCase& c) {
  INFO(c.name);
  const GroupedCase& test = c.test;
  if (test.problem.layout != jit::Layout::kDense || test.problem.scaling != jit::Scaling::k1d2d)
    return check_random(gpu, test);
  GemmData data(gpu, {test.problem, test.m, test.tile, test.seed});
  data.fill_random();
  data.upload();
  data.launch();
  REQUIRE(data.download());
  CHECK(data.elements_out_of_bounds() == 0);
}

}  // namespace

TEST_CASE("the simulator gives the recorded bits", "[sim]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  const char* const update = std::getenv("KILN_SIM_UPDATE");
  for (const NamedCase& c : all_cases()) {
    INFO(c.name);
    SimCase sim_case(simulator, c.test);
    REQUIRE(sim_case.launch(1) == "");
    if (update != nullptr && *update == '1') {
      std::printf("    {\"%s\", 0x%016llx},\n", c.name.c_str(),
                  static_cast<unsigned long long>(sim_case.result_hash()));
    } else {
      CHECK(sim_case.result_hash() == recorded(c.name));
    }
  }
}

TEST_CASE("the simulator and the GPU agree, bit for bit on exact values", "[sim][gpu]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const NamedCase& c : all_cases()) {
    INFO(c.name);
    SimCase sim_case(simulator, c.test);
    CaseRunner gpu_case(gpu, c.test);
    REQUIRE(sim_case.launch(1) == "");
    REQUIRE(gpu_case.launch(0) == "");
    CHECK(sim_case.result_hash() == gpu_case.result_hash());
  }
}

TEST_CASE("random values are right on the simulator, in every layout", "[sim]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  simulator.control().seed = 1;
  for (const NamedCase& c : all_cases()) check_random_case(simulator.gpu(), c);
}

// The bounds are those of the tensor core's accumulator, so both are within twice its rounding of
// each other.
TEST_CASE("random values are right on the GPU, for the simulator's problems", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  for (const NamedCase& c : all_cases()) check_random_case(gpu, c);
}

}  // namespace kiln::test
