// Every kernel family and layout on the simulator, each problem under many schedules: the same
// exact bits whatever the order in which things happen, and no rule of the hardware broken.
#include "tests/sim/sim_cases.h"
#include "tests/sim/sim_support.h"

namespace kiln::test {
namespace {

void check_all(Simulator& simulator, const std::vector<NamedCase>& cases) {
  for (const NamedCase& c : cases) {
    INFO(c.name);
    check_schedules(simulator, c.test);
  }
}

}  // namespace

TEST_CASE("dense 1d2d is exact under every schedule", "[sim]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  check_all(simulator, dense_cases());
}

TEST_CASE("dense 1d1d is exact under every schedule", "[sim]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  check_all(simulator, dense_1d1d_cases());
}

TEST_CASE("grouped_contiguous is exact under every schedule", "[sim]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  check_all(simulator, contiguous_cases());
}

TEST_CASE("grouped_masked is exact under every schedule", "[sim]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  check_all(simulator, masked_cases());
}

TEST_CASE("grouped_k is exact under every schedule", "[sim]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  check_all(simulator, grouped_k_cases());
}

}  // namespace kiln::test
