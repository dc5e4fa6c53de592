#include "tests/sim/sim_support.h"

#include <cstdlib>

namespace kiln::test {
namespace {

struct Found {
  std::unique_ptr<Simulator> simulator;
  std::string reason;
};

const Found& found() {
  static const Found result = [] {
    try {
      return Found{std::make_unique<Simulator>(), ""};
    } catch (const Error& error) {
      return Found{nullptr, error.what()};
    }
  }();
  return result;
}

}  // namespace

Simulator* Simulator::get() { return found().simulator.get(); }
const std::string& Simulator::skip_reason() { return found().reason; }

Simulator::Simulator(sim::TemplateOverrides overrides, std::int32_t num_sms)
    : control_(&sim::control()), engine_(open_simulated_engine(std::move(overrides), num_sms)) {
  gpu_ = std::make_unique<Gpu>(engine_);
}

Simulator::~Simulator() {
  gpu_.reset();
  kiln_engine_destroy(engine_);
}

std::uint64_t seeds(std::uint64_t usual) {
  const char* const asked = std::getenv("KILN_SIM_SEEDS");
  const std::uint64_t count = asked != nullptr ? std::strtoull(asked, nullptr, 10) : 0;
  return count > 0 ? count : usual;
}

SimCase::SimCase(Simulator& simulator, const GroupedCase& test)
    : simulator_(simulator),
      tile_(test.tile.value_or(jit::Tile{})),
      runner_(simulator.gpu(), test) {}

// With an odd seed one cluster does everything, so that tiles follow each other.
std::string SimCase::launch(std::uint64_t seed) {
  simulator_.control().seed = seed;
  return runner_.launch(seed % 2 == 1 ? jit::cluster_size(tile_) : 0);
}

void check_schedules(Simulator& simulator, const GroupedCase& test, std::uint64_t count) {
  INFO(describe(test));
  SimCase sim_case(simulator, test);
  for (std::uint64_t seed = 1; seed <= count; ++seed) {
    INFO("seed " << seed);
    REQUIRE(sim_case.launch(seed) == "");
  }
}

}  // namespace kiln::test
