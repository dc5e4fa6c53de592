// The problems that are simulated: for every kernel family and layout a few small ones, with tails,
// empty groups, groups of one row, and clusters.
#pragma once

#include <string>
#include <vector>

#include "tests/runtime/gpu_grouped_support.h"

namespace kiln::test {

struct NamedCase {
  std::string name;  // unique
  GroupedCase test;
};
std::vector<NamedCase> dense_cases();
std::vector<NamedCase> dense_1d1d_cases();
std::vector<NamedCase> contiguous_cases();
std::vector<NamedCase> masked_cases();
std::vector<NamedCase> grouped_k_cases();
std::vector<NamedCase> all_cases();

}  // namespace kiln::test
