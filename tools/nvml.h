// What the GPU was doing around a measurement: clock, power, temperature, and why it was slowed
// down. From libnvidia-ml, opened at run time; without it every sample is empty.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kiln::tools {

// What a driver does not report is empty.
struct GpuState {
  std::optional<int> sm_clock_mhz;
  std::optional<double> power_w;
  std::optional<int> temperature_c;
  std::optional<std::uint64_t> throttle_bits;
};

// "power cap", "thermal", ...: what holds the clocks down, idling and chosen clocks left out.
std::vector<std::string_view> throttle_reasons(std::uint64_t bits);

nlohmann::ordered_json to_json(const GpuState& state);

class GpuMonitor {
 public:
  virtual ~GpuMonitor() = default;
  virtual GpuState sample() = 0;
};

// `pci_bus_id` as runtime::DeviceInfo has it. Null when NVML cannot be used; `reason` then says
// why, and what to do. `library` is for tests.
std::unique_ptr<GpuMonitor> open_nvml(const std::string& pci_bus_id, std::string& reason,
                                      const std::string& library = "libnvidia-ml.so.1");

}  // namespace kiln::tools
