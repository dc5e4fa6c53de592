// The tile order of templates/schedule.cuh, compiled as host C++ and checked exhaustively.
#include "templates/schedule.cuh"

#include <algorithm>
#include <random>
#include <vector>

#include "tests/support/catch.h"

using namespace kiln::device;

namespace {

// True when the items 0..num_m*num_n-1 visit every tile exactly once.
bool visits_all_once(u32 num_m, u32 num_n, u32 raster_group) {
  std::vector<u32> visits(static_cast<std::size_t>(num_m) * num_n);
  for (u32 item = 0; item < num_m * num_n; ++item) {
    const TileCoord t = tile_at(item, num_m, num_n, raster_group);
    if (t.m >= num_m || t.n >= num_n) return false;
    ++visits[static_cast<std::size_t>(t.m) * num_n + t.n];
  }
  for (const u32 count : visits)
    if (count != 1) return false;
  return true;
}

}  // namespace

TEST_CASE("every output tile is visited exactly once, for all small grids", "[schedule]") {
  for (u32 num_m = 1; num_m <= 24; ++num_m)
    for (u32 num_n = 1; num_n <= 24; ++num_n)
      for (const u32 group : {1u, 2u, 3u, 8u, 16u, 1024u})
        REQUIRE(visits_all_once(num_m, num_n, group));
}

TEST_CASE("every output tile is visited exactly once, for thousands of random grids",
          "[schedule]") {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    const u32 num_m = 1 + random() % 200, num_n = 1 + random() % 200, group = 1 + random() % 40;
    REQUIRE(visits_all_once(num_m, num_n, group));
  }
}

TEST_CASE("the order stays inside the grid at the largest sizes", "[schedule]") {
  std::mt19937 random(2);
  const u32 num_m = 33'554'424, num_n = 64;  // 2^31 rows in tiles of 64, nearly 2^31 items
  for (int round = 0; round < 100'000; ++round) {
    const u32 item = random() % (num_m * num_n);
    const TileCoord t = tile_at(item, num_m, num_n, 8);
    REQUIRE(t.m < num_m);
    REQUIRE(t.n < num_n);
  }
  const TileCoord last = tile_at(num_m * num_n - 1, num_m, num_n, 8);
  CHECK(last.m == num_m - 1);
  CHECK(last.n == num_n - 1);
}

TEST_CASE("tiles in flight form a band of raster_group rows", "[schedule]") {
  u32 highest = 0;
  for (u32 item = 0; item < 132; ++item) highest = std::max(highest, tile_at(item, 64, 56, 8).m);
  CHECK(highest == 7);
}
