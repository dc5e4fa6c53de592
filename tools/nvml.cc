#include "tools/nvml.h"

#include <fmt/format.h>

#include "tools/dynamic_library.h"

namespace kiln::tools {
namespace {

// The few declarations of nvml.h that are needed; its ABI is stable.
using NvmlDevice = struct NvmlDeviceTag*;
constexpr int kNvmlSuccess = 0;
constexpr int kClockSm = 1;         // NVML_CLOCK_SM
constexpr int kTemperatureGpu = 0;  // NVML_TEMPERATURE_GPU

struct NvmlFunctions {
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*handle_by_pci)(const char*, NvmlDevice*) = nullptr;
  // Each may be missing or fail.
  int (*clock)(NvmlDevice, int, unsigned*) = nullptr;
  int (*power_mw)(NvmlDevice, unsigned*) = nullptr;
  int (*temperature)(NvmlDevice, int, unsigned*) = nullptr;
  int (*throttle)(NvmlDevice, unsigned long long*) = nullptr;
};

bool bind_all(const DynamicLibrary& library, NvmlFunctions& f) {
  library.bind(f.clock, "nvmlDeviceGetClockInfo");
  library.bind(f.power_mw, "nvmlDeviceGetPowerUsage");
  library.bind(f.temperature, "nvmlDeviceGetTemperature");
  if (!library.bind(f.throttle, "nvmlDeviceGetCurrentClocksEventReasons"))
    library.bind(f.throttle, "nvmlDeviceGetCurrentClocksThrottleReasons");  // before driver 535
  return library.bind(f.init, "nvmlInit_v2") && library.bind(f.shutdown, "nvmlShutdown") &&
         library.bind(f.handle_by_pci, "nvmlDeviceGetHandleByPciBusId_v2");
}

class NvmlMonitor final : public GpuMonitor {
 public:
  NvmlMonitor(const NvmlFunctions& functions, NvmlDevice device) : f_(functions), device_(device) {}
  NvmlMonitor(const NvmlMonitor&) = delete;
  NvmlMonitor& operator=(const NvmlMonitor&) = delete;
  ~NvmlMonitor() override { f_.shutdown(); }

  GpuState sample() override {
    GpuState state;
    unsigned value = 0;
    if (f_.clock != nullptr && f_.clock(device_, kClockSm, &value) == kNvmlSuccess)
      state.sm_clock_mhz = static_cast<int>(value);
    if (f_.power_mw != nullptr && f_.power_mw(device_, &value) == kNvmlSuccess)
      state.power_w = value / 1000.0;
    if (f_.temperature != nullptr &&
        f_.temperature(device_, kTemperatureGpu, &value) == kNvmlSuccess)
      state.temperature_c = static_cast<int>(value);
    unsigned long long bits = 0;
    if (f_.throttle != nullptr && f_.throttle(device_, &bits) == kNvmlSuccess)
      state.throttle_bits = bits;
    return state;
  }

 private:
  NvmlFunctions f_;
  NvmlDevice device_;
};

template <typename T>
nlohmann::ordered_json or_null(const std::optional<T>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

}  // namespace

std::vector<std::string_view> throttle_reasons(std::uint64_t bits) {
  struct Reason {
    std::uint64_t bit;
    std::string_view name;
  };
  constexpr Reason kReasons[] = {{0x4, "power cap"},         {0x8, "hardware slowdown"},
                                 {0x10, "sync boost"},       {0x20, "software thermal"},
                                 {0x40, "hardware thermal"}, {0x80, "power brake"},
                                 {0x100, "display clocks"}};
  std::vector<std::string_view> names;
  for (const Reason& reason : kReasons) {
    if ((bits & reason.bit) != 0) names.push_back(reason.name);
  }
  return names;
}

nlohmann::ordered_json to_json(const GpuState& state) {
  nlohmann::ordered_json throttled = nullptr;
  if (state.throttle_bits) {
    throttled = nlohmann::ordered_json::array();
    for (const std::string_view reason : throttle_reasons(*state.throttle_bits))
      throttled.push_back(reason);
  }
  return {{"sm_clock_mhz", or_null(state.sm_clock_mhz)},
          {"power_w", or_null(state.power_w)},
          {"temperature_c", or_null(state.temperature_c)},
          {"throttled", throttled}};
}

std::unique_ptr<GpuMonitor> open_nvml(const std::string& pci_bus_id, std::string& reason,
                                      const std::string& library_name) {
  const std::string candidates[] = {library_name};
  const DynamicLibrary library(candidates);
  NvmlFunctions f;
  if (!library) {
    reason = fmt::format("NVML {}: it comes with the NVIDIA driver", library.message());
    return nullptr;
  }
  if (!bind_all(library, f)) {
    reason = fmt::format("{} lacks calls of NVML: update the NVIDIA driver", library.path());
    return nullptr;
  }
  if (const int result = f.init(); result != kNvmlSuccess) {
    reason = fmt::format("nvmlInit failed with {}: check that nvidia-smi works", result);
    return nullptr;
  }
  NvmlDevice device = nullptr;
  if (const int result = f.handle_by_pci(pci_bus_id.c_str(), &device); result != kNvmlSuccess) {
    reason = fmt::format("NVML does not show GPU {} ({}): check the container's devices",
                         pci_bus_id, result);
    f.shutdown();
    return nullptr;
  }
  return std::make_unique<NvmlMonitor>(f, device);
}

}  // namespace kiln::tools
