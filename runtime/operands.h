// kiln_operands against the problem they are for: every rule of kiln.h that the host can check.
#pragma once

#include <cstdint>

#include "jit/problem.h"
#include "runtime/kiln.h"

namespace kiln::runtime {

// What a launch's operands leave to be derived, with every default filled in.
struct LaunchSizes {
  std::int64_t k = 0;  // of this launch, all groups together
  std::int32_t num_slices = 1;
  // Elements from slice to slice; 0 where an operand is one matrix.
  std::int64_t a_group_stride = 0, b_group_stride = 0;
  std::int64_t sfa_group_stride = 0, sfb_group_stride = 0;
  std::int64_t d_group_stride = 0;
};

// Throws Error{kInvalidArgument} naming field, value, rule and remedy; a field that the problem's
// layout does not use must have its default. With m = 0 only what no launch may have is refused,
// and the sizes are not meant to be read. With k = 0 the inputs may be anything. Does not allocate.
LaunchSizes check_operands(const jit::Problem& problem, const kiln_operands& operands);

}  // namespace kiln::runtime
