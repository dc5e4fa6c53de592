// What the verify mode compares: an entry of the cache with a compile of the same key.
#pragma once

#include <string>

#include "cache/entry.h"

namespace kiln::runtime {

// "" when both are the same kernel: same cubin, byte for byte, same source and same launch data.
// Else a warning with the key, the kernel, the first difference and the remedy. What may differ
// between two compiles does not count: time, duration and log.
std::string describe_mismatch(const cache::Entry& stored, const cache::Entry& compiled);

}  // namespace kiln::runtime
