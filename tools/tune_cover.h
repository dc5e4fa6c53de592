// Which few kernels serve all intervals of M: a small set cover over measured times.
#pragma once

#include <cstddef>
#include <vector>

namespace kiln::tools {

struct KernelChoice {
  std::vector<std::size_t> kernel;  // per interval: the fastest of those kept
  std::vector<double> loss;         // per interval: its time over the best time, less 1
  std::size_t kept = 0;             // kernels
  double max_loss = 0;
};

// times[i][k]: of kernel k in interval i; infinity where it cannot serve. Every interval has a
// finite time. Keeps at most `max_kernels`: of all sets the one whose largest loss is within
// `max_loss` with the smallest sum of losses, or, when no set is, the one with the smallest largest
// loss. Exact for the sizes that occur (up to 200,000 sets); beyond, kernels are dropped one by
// one, each time the one that costs least.
KernelChoice choose_kernels(const std::vector<std::vector<double>>& times, std::size_t max_kernels,
                            double max_loss);

}  // namespace kiln::tools
