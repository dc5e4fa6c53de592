// The problems that the simulator computes too, on a real GPU: the same bits as it recorded.
#include "tests/sim/case_runner.h"
#include "tests/sim/exact_results.h"
#include "tests/sim/sim_cases.h"

namespace kiln::test {

TEST_CASE("the problems of the simulator give the bits that it recorded", "[gpu]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  std::size_t checked = 0;
  for (const NamedCase& c : all_cases()) {
    for (const ExactResult& result : kExactResults) {
      if (c.name != result.name) continue;
      INFO(c.name);
      CaseRunner runner(gpu, c.test);
      REQUIRE(runner.launch(0) == "");
      CHECK(runner.result_hash() == result.hash);
      ++checked;
    }
  }
  CHECK(checked == all_cases().size());
}

}  // namespace kiln::test
