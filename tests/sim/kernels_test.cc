// Every kernel family and layout on the simulator, each under many schedules.
#include "tests/sim/sim_support.h"

namespace kiln::test {
namespace {

jit::Problem dense(std::int64_t n, std::int64_t k) {
  jit::Problem problem;
  problem.n = n;
  problem.k = k;
  return problem;
}

}  // namespace

TEST_CASE("dense 1d2d is exact under every schedule", "[sim]") {
  KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator);
  check_schedules(simulator, {.problem = dense(264, 656), .m = 200, .tile = jit::Tile{}});
}

}  // namespace kiln::test
