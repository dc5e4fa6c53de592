// Controls of the simulator's driver library, which is opened with dlopen: a symbol of the library,
// kiln_sim_control, gives them.
#pragma once

#include <cstdint>

namespace kiln::sim {

struct Control {
  std::uint64_t seed = 1;  // of the schedule; every launch of the same seed runs the same
  int num_sms = 8;         // of the device; before the engine is created
  const char* fault = "";  // what stopped the last launch, or ""
  // Of the last launch.
  std::uint64_t switches = 0, loads = 0, mmas = 0, stores = 0, copies = 0;
};

using ControlFunction = Control*();
inline constexpr const char* kControlSymbol = "kiln_sim_control";

}  // namespace kiln::sim
