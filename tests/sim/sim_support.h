// For tests on the simulator: an engine whose driver is the simulator's and whose compiler is the
// host's, and launches under many schedules.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tests/sim/case_runner.h"
#include "tools/sim/host_compiler.h"

namespace kiln::test {

// Compiled kernels stay in the build folder from run to run. Throws Error.
kiln_engine* open_simulated_engine(sim::TemplateOverrides overrides, std::int32_t num_sms);

class Simulator {
 public:
  // Null where the simulator was not built or cannot be used; skip_reason() then says why.
  static Simulator* get();
  static const std::string& skip_reason();

  explicit Simulator(sim::TemplateOverrides overrides = {}, std::int32_t num_sms = 4);
  ~Simulator();
  Simulator(const Simulator&) = delete;
  Simulator& operator=(const Simulator&) = delete;

  Gpu& gpu() { return *gpu_; }
  sim::Control& control() { return *control_; }

 private:
  sim::Control* control_;
  kiln_engine* engine_;
  std::unique_ptr<Gpu> gpu_;
};

#define KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator)      \
  if (::kiln::test::Simulator::get() == nullptr)       \
    KILN_SKIP(::kiln::test::Simulator::skip_reason()); \
  ::kiln::test::Simulator& simulator = *::kiln::test::Simulator::get()

// How many schedules a test tries: KILN_SIM_SEEDS of the environment, else `usual`.
std::uint64_t seeds(std::uint64_t usual = 20);

// A problem with exact values under one schedule after the other; see CaseRunner.
class SimCase {
 public:
  SimCase(Simulator& simulator, const GroupedCase& test);
  std::string launch(std::uint64_t seed);
  std::uint64_t result_hash() const { return runner_.result_hash(); }

 private:
  Simulator& simulator_;
  jit::Tile tile_;
  CaseRunner runner_;
};

// Exact results under `count` schedules.
void check_schedules(Simulator& simulator, const GroupedCase& test, std::uint64_t count = seeds());

}  // namespace kiln::test
