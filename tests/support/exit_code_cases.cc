// Cases of which each run ends in another way, for the entries that look at the exit code.
#include "tests/support/catch.h"

namespace kiln::test {

TEST_CASE("passes", "[.]") { CHECK(true); }

TEST_CASE("is skipped", "[.]") { KILN_SKIP("so that somebody sees it"); }

TEST_CASE("fails four times", "[.]") {
  for (int i = 0; i < 4; ++i) CHECK(i < 0);
}

}  // namespace kiln::test
