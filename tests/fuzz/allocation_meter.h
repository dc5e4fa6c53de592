// How much memory of the C++ heap is in use, in a program that links allocation_meter.cc, which
// replaces operator new. Thread-safe. Programs under a sanitizer have that one's allocator and
// limits.
#pragma once

#include <cstddef>

namespace kiln::test {

std::size_t allocated_bytes();       // now
void reset_peak();                   // the peak becomes what is in use now
std::size_t peak_allocated_bytes();  // since then
bool is_metered();                   // false under a sanitizer

}  // namespace kiln::test
