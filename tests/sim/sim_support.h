// For tests on the simulator: an engine whose driver is the simulator's and whose compiler is the
// host's, and launches under many schedules.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tests/runtime/gpu_grouped_support.h"
#include "tools/sim/host_compiler.h"

namespace kiln::test {

// Compiled kernels stay in the build folder from run to run.
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
  sim::Control* control_ = nullptr;
  kiln_engine* engine_ = nullptr;
  std::unique_ptr<Gpu> gpu_;
};

#define KILN_REQUIRE_SIMULATOR_OR_SKIP(simulator)                                      \
  if (::kiln::test::Simulator::get() == nullptr)                                       \
    KILN_SKIP(::kiln::test::Simulator::skip_reason());                                 \
  ::kiln::test::Simulator& simulator = *::kiln::test::Simulator::get()

// How many schedules a test tries: KILN_SIM_SEEDS of the environment, else `usual`.
std::uint64_t seeds(std::uint64_t usual = 20);

// One problem of any layout, with exact values. launch() gives what is wrong: the message of a
// fault, or of a wrong result; empty when nothing is. The first launch is compared with the
// reference, the others must give the same bits.
class SimCase {
 public:
  SimCase(Simulator& simulator, const GroupedCase& test);
  std::string launch(std::uint64_t seed);
  // FNV-1a of all of D and what surrounds it after the last launch.
  std::uint64_t result_hash() const { return hash_; }

 private:
  std::string launch_dense(std::int32_t num_sms);
  std::string launch_grouped(std::int32_t num_sms);

  Simulator& simulator_;
  GroupedCase test_;
  std::unique_ptr<GemmData> dense_;       // dense 1d2d
  std::unique_ptr<GroupedGemm> grouped_;  // everything else
  bool has_hash_ = false;
  std::uint64_t hash_ = 0;
};

// Exact results under `count` schedules.
void check_schedules(Simulator& simulator, const GroupedCase& test, std::uint64_t count = seeds());

}  // namespace kiln::test
