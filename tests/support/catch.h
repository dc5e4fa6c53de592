// Catch2 under one include, whether the distribution ships 2.13 or 3.x, and visible skips for both.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <string>

namespace kiln::test {

// Prints "SKIPPED: reason" and remembers it: a run in which every case was skipped exits with 4,
// which ctest shows as "Skipped". Call it through KILN_SKIP.
void note_skip(const std::string& reason);

}  // namespace kiln::test

// Leaves the test case as skipped, e.g. KILN_SKIP("no Hopper GPU"). Use it in the case's own body,
// before the first check. (Catch2 has had a SKIP of its own only since 3.3.)
#define KILN_SKIP(reason)            \
  do {                               \
    ::kiln::test::note_skip(reason); \
    return;                          \
  } while (false)
