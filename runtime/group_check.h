// The contract of the arrays that say which group is where, checked on the host: the engine's debug
// option (KILN_CHECK_ON). The kernels themselves trust them, within the bounds of D.
//
// The first violation is Error{kInvalidArgument} naming the array, index, value, rule and remedy.
#pragma once

#include <cstdint>
#include <span>

#include "jit/problem.h"
#include "runtime/driver.h"
#include "runtime/kiln.h"
#include "runtime/operands.h"

namespace kiln::runtime {

// Group of each row, any negative number for padding. Without the padding the labels do not
// decrease; the rows of a group follow each other and begin at a multiple of `alignment`.
void check_labels(std::span<const std::int32_t> labels, std::int32_t groups,
                  std::int32_t alignment);

// End of each group, in 0..extent (which `extent_name` names: "m" or "k"), none before the previous
// one. Group g begins at s, the previous end rounded up to `alignment`, and the first one at 0. It
// ends at s or later; an empty group may also repeat the previous end.
void check_ends(std::span<const std::int32_t> ends, std::int64_t extent, const char* extent_name,
                std::int32_t alignment);

// Valid rows of each group, in 0..m.
void check_rows(std::span<const std::int32_t> rows, std::int64_t m);

// Slice of each group, in 0..num_slices-1; none twice when `distinct`.
void check_expert_map(std::span<const std::int32_t> slices, std::int32_t num_slices, bool distinct);

// Waits for the stream, reads the arrays of a launch back and checks them. While the stream is
// being captured there is nothing to read yet: then it does nothing but ask. `operands` were
// checked, with `sizes` as the result. Also throws Error{kDriverError}.
void check_groups_on_device(const Device& device, const jit::Problem& problem,
                            const kiln_operands& operands, const LaunchSizes& sizes,
                            CUstream stream);

}  // namespace kiln::runtime
