#include "tools/gpu.h"

#include <fmt/format.h>

namespace kiln::tools {

// The first Hopper GPU, or exit code 3 with what is missing.
int find_device(std::optional<std::int64_t> asked) {
  if (asked) return static_cast<int>(*asked);
  kiln_probe_report probe = KILN_PROBE_REPORT_INIT;
  check(kiln_probe(nullptr, &probe));
  if (probe.has_driver == 0) {
    throw Error(
        Status::kNoDriver,
        fmt::format("running needs an NVIDIA Hopper GPU and its driver: {}", probe.driver_message));
  }
  if (probe.hopper_device < 0) {
    throw Error(Status::kNoDevice,
                fmt::format("running needs an NVIDIA Hopper GPU: {}", probe.device_message));
  }
  return probe.hopper_device;
}

// A GPU that Kiln cannot use is exit code 3, whatever is wrong with it.
EngineHandle open_engine(const kiln_engine_options& options) {
  try {
    return EngineHandle(options);
  } catch (const Error& error) {
    if (error.status() == Status::kUnsupported) throw Error(Status::kNoDevice, error.what());
    throw;
  }
}

}  // namespace kiln::tools
