// What the tests of faults, crashes and power losses do with a cache: short programs that together
// make every system call that the cache has, in every order that it has.
#pragma once

#include <string>
#include <vector>

#include "cache/files.h"
#include "support.h"

namespace kiln::cache::test {

struct Scenario {
  const char* name;
  void (*prepare)(const std::string& root);
  // False when a lookup gave other bytes than were published. It throws only what the cache throws.
  bool (*run)(const std::string& root, const Files& files);
};
const std::vector<Scenario>& scenarios();
const Scenario& scenario(std::string_view name);

// The entry that every scenario publishes.
const Entry& scenario_entry();

// What holds after any of it, for a process that comes later: every entry is whole, the entry is
// published and found, and nothing waits. "" or what is wrong.
std::string what_is_wrong_with(const std::string& root);

// True when the lookup found the scenario's entry or nothing.
bool right_or_nothing(DiskCache& cache);

}  // namespace kiln::cache::test
