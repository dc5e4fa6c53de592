// What Kiln costs the host: the first compile of a kernel, finding it on disk, and a launch.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/bench.h"
#include "tools/measure.h"

namespace kiln::tools {

// Times in microseconds over the cases; none when nothing was to be measured.
struct HostCosts {
  std::vector<double> cold_us;    // kiln_plan_prepare with an empty cache: one kernel compiled
  std::vector<double> disk_us;    // the same in another engine over the same cache
  std::vector<double> launch_us;  // kiln_launch, the median of many, one value per case
};

// Works in a cache directory of its own, which it removes. `options` say which device. Cases that
// share their kernel count once. Throws Error.
HostCosts measure_host_costs(const kiln_engine_options& options,
                             const std::vector<BenchCase>& cases);

std::string host_costs_text(const HostCosts& costs);
nlohmann::ordered_json to_json(const HostCosts& costs);

}  // namespace kiln::tools
