// Tests that were written for a GPU, on the simulator. KILN_SIM_SEED chooses the schedule.
#include <cstdlib>

#include "tests/sim/sim_support.h"

namespace kiln::test {

kiln_engine* open_test_engine(std::string& reason) {
  try {
    kiln_engine* const engine = open_simulated_engine({}, 4);
    if (const char* seed = std::getenv("KILN_SIM_SEED"))
      sim::control().seed = std::strtoull(seed, nullptr, 10);
    return engine;
  } catch (const Error& error) {
    reason = error.what();
    return nullptr;
  }
}

}  // namespace kiln::test
