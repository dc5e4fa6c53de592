// The groups in templates/schedule.cuh, compiled as host C++: for thousands of group shapes, with
// every tile of the menu, each part of D is visited exactly once, for the right group.
#include <algorithm>
#include <climits>
#include <random>
#include <string>
#include <vector>

#include "jit/tile.h"
#include "templates/schedule.cuh"
#include "tests/support/catch.h"
#include "tests/support/gate.h"

using namespace kiln;
using namespace kiln::device;

namespace {

constexpr u32 kWave = 64;  // every tile height is a multiple of it

struct TileShape {
  u32 block_m, block_n, cluster_m, cluster_n, raster_group;
  u32 row_unit = 1;
  TileSize of_cluster() const {
    return {block_m * cluster_m, block_n * cluster_n, row_unit, lone_rows(block_m, cluster_m)};
  }
};

TileSize rows_only(u32 rows, u32 row_unit = 1) { return {rows, 8, row_unit, 0}; }

// Heights, widths and clusters of the menu, each combination once.
std::vector<TileShape> menu(const jit::Problem& problem) {
  std::vector<TileShape> shapes;
  const auto u = [](std::int32_t value) { return static_cast<u32>(value); };
  for (const jit::Tile& t : jit::legal_tiles(problem))
    shapes.push_back(
        {u(t.block_m), u(t.block_n), u(t.cluster_m), u(t.cluster_n), u(t.raster_group)});
  return shapes;
}

jit::Problem problem_of(jit::Layout layout, std::int64_t n) {
  jit::Problem problem;
  problem.layout = layout;
  problem.group_form = jit::default_group_form(layout);
  problem.alignment = layout == jit::Layout::kGroupedContiguous ? 1 : 0;
  problem.n = n;
  problem.k = 512;
  problem.groups = 4;
  if (layout == jit::Layout::kGroupedK) {
    problem.scaling = jit::Scaling::k1d1d;
    problem.sfa_major = jit::ScaleMajor::kM;
  }
  return problem;
}

// The table that each CTA makes for itself, from the same functions.
struct Array {
  std::vector<u32> values;
  u32 operator()(u32 index) const { return values.at(index); }
};
GroupTable<Array> table_of(const std::vector<GroupRows>& groups, TileSize size, u32 num_n) {
  GroupTable<Array> table;
  u32 whole = 0, partial = 0;
  for (const GroupRows& rows : groups) {
    table.first_whole.values.push_back(whole);
    table.first_partial.values.push_back(partial);
    table.start.values.push_back(rows.start);
    table.end.values.push_back(rows.end);
    const TileRows tiles = tiles_of(rows, size);
    whole += tiles.whole;
    partial += tiles.partial_tiles(num_n);
  }
  table.first_whole.values.push_back(whole);
  table.first_partial.values.push_back(partial);
  return table;
}

u32 all_tiles_of(GroupRows rows, TileSize size) { return tiles_of(rows, size).all(); }

// How often each wave of each group's tiles is visited in each column of tiles, and how many rows
// of each group in all.
class Visits {
 public:
  Visits(const std::vector<GroupRows>& groups, u32 n, const TileShape& shape)
      : groups_(groups),
        shape_(shape),
        columns_((n + shape.block_n - 1) / shape.block_n),
        rows_(groups.size(), 0) {
    std::size_t total = 0;
    for (const GroupRows& rows : groups) {
      offsets_.push_back(total);
      total +=
          static_cast<std::size_t>(all_tiles_of(rows, rows_only(kWave, shape.row_unit))) * columns_;
    }
    counts_.assign(total, 0);
  }

  // A CTA's tile at `row`, whose valid rows are [begin, end); says why it may not be there.
  std::string visit(u32 group, u32 row, u32 begin, u32 end, u32 column) {
    if (group >= groups_.size()) return "no such group: " + std::to_string(group);
    const GroupRows& rows = groups_[group];
    if (begin < rows.start || end > rows.end) return "rows of another group";
    const u32 first = first_tile_row(rows.start, rows_only(kWave, shape_.row_unit));
    if (row < first || (row - first) % kWave != 0 || row % shape_.row_unit != 0 ||
        column % shape_.block_n != 0)
      return "off the grid";
    for (u32 wave = (row - first) / kWave; row < end; row += kWave, ++wave)
      ++counts_[offsets_[group] + std::size_t{wave} * columns_ + column / shape_.block_n];
    rows_[group] += end - begin;
    return {};
  }
  bool all_once() const {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const GroupRows& rows = groups_[g];
      const u32 height = rows.end > rows.start ? rows.end - rows.start : 0;
      if (rows_[g] != std::uint64_t{height} * columns_) return false;
    }
    return std::all_of(counts_.begin(), counts_.end(), [](std::uint8_t c) { return c == 1; });
  }

 private:
  const std::vector<GroupRows>& groups_;
  TileShape shape_;
  u32 columns_;
  std::vector<std::uint64_t> rows_;  // visited, in all columns of tiles
  std::vector<std::size_t> offsets_;
  std::vector<std::uint8_t> counts_;
};

// What one cluster computes.
struct Share {
  u32 whole = 0, partial = 0;
};

// Whole tiles and partial ones are shared out to within one of each, and nobody has more of both.
bool is_fair(const std::vector<Share>& shares) {
  const auto by_whole = [](Share a, Share b) { return a.whole < b.whole; };
  const auto by_partial = [](Share a, Share b) { return a.partial < b.partial; };
  const auto by_all = [](Share a, Share b) { return a.whole + a.partial < b.whole + b.partial; };
  const auto spread = [&](auto less, auto count) {
    const auto [low, high] = std::minmax_element(shares.begin(), shares.end(), less);
    return count(*high) - count(*low);
  };
  return spread(by_whole, [](Share s) { return s.whole; }) <= 1 &&
         spread(by_partial, [](Share s) { return s.partial; }) <= 1 &&
         spread(by_all, [](Share s) { return s.whole + s.partial; }) <= 1;
}

// The tiles of a cluster as one of its CTAs along M has them.
std::vector<Site> sites_of(const GroupTable<Array>& table, TileSize size, Grid grid, u32 cluster,
                           u32 cta_m) {
  const auto num_groups = static_cast<u32>(table.start.values.size());
  RowGroupWalk<Array> walk(table, num_groups, size, grid, cluster, cta_m);
  std::vector<Site> sites;
  for (Site site; walk.next(site);) sites.push_back(site);
  return sites;
}

// Two CTAs of a cluster go through the same tiles, but take the columns of lone ones in turn.
bool go_together(const std::vector<Site>& a, const std::vector<Site>& b, u32 columns) {
  const auto fits = [&](const Site& x, const Site& y) {
    return x.group == y.group && x.row == y.row && x.lone == y.lone &&
           x.column + (x.lone ? columns : 0) == y.column;
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), fits);
}

// Runs all clusters one after the other, as the kernel's loops do. Empty when each part of each
// group was visited once.
std::string run_row_groups(const std::vector<GroupRows>& groups, u32 n, const TileShape& shape,
                           u32 num_clusters) {
  const TileSize size = shape.of_cluster();
  const Grid grid{(n + size.columns - 1) / size.columns, num_clusters, shape.raster_group};
  const GroupTable<Array> table = table_of(groups, size, grid.num_n);
  Visits visits(groups, n, shape);
  std::vector<Share> shares(num_clusters);
  for (u32 cluster = 0; cluster < num_clusters; ++cluster) {
    const std::vector<Site> of_first = sites_of(table, size, grid, cluster, 0);
    for (const Site& site : of_first)
      ++(site.row + size.rows <= site.row_end ? shares[cluster].whole : shares[cluster].partial);
    for (u32 cta_m = 0; cta_m < shape.cluster_m; ++cta_m) {
      const std::vector<Site> sites = sites_of(table, size, grid, cluster, cta_m);
      if (cta_m > 0 && !go_together(of_first, sites, size.columns))
        return "CTAs of a cluster with other tiles";
      for (const Site& site : sites) {
        if (site.row >= site.row_end) return "a cluster without rows";
        if (site.group_tiles != all_tiles_of(groups[site.group], size)) return "wrong tile count";
        const u32 row = site.row + (site.lone ? 0 : cta_m * shape.block_m);
        const u32 begin = std::max(row, site.row_begin);
        const u32 end_of_tile = std::min(row + shape.block_m, site.row_end);
        for (u32 column = site.column; column < site.column + size.columns;
             column += shape.block_n) {
          if (begin >= end_of_tile || column >= n) continue;  // beyond D: nothing is stored
          if (std::string wrong = visits.visit(site.group, row, begin, end_of_tile, column);
              !wrong.empty())
            return wrong;
        }
      }
    }
  }
  if (!is_fair(shares)) return "not shared out evenly";
  return visits.all_once() ? "" : "not every part exactly once";
}

using Sizes = std::vector<i32>;

// contiguous by ends: the groups' rows as the kernel derives them, and D's height.
std::vector<GroupRows> rows_by_ends(const Sizes& sizes, u32 alignment, u32 slack) {
  Sizes ends;
  i32 end = 0;
  for (const i32 size : sizes) {
    const auto unit = static_cast<i32>(alignment);
    if (size > 0) end = (end + unit - 1) / unit * unit + size;
    ends.push_back(end);
  }
  std::vector<GroupRows> groups;
  for (std::size_t g = 0; g < ends.size(); ++g)
    groups.push_back(
        rows_between(g == 0 ? 0 : ends[g - 1], ends[g], alignment, static_cast<u32>(end) + slack));
  return groups;
}

std::vector<GroupRows> rows_by_mask(const Sizes& sizes, u32 m) {
  std::vector<GroupRows> groups;
  for (const i32 size : sizes) groups.push_back({0, clamp_to(size, m)});
  return groups;
}

// 0, 1, 127, 128 and 129 rows and others, all rows in one group, or none anywhere.
Sizes random_sizes(std::mt19937& random, std::size_t groups) {
  constexpr i32 kMenu[] = {0, 0, 1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 256, 257};
  Sizes sizes(groups, 0);
  const u32 kind = random() % 8;
  if (kind == 0) return sizes;
  if (kind == 1) {
    sizes[random() % groups] = static_cast<i32>(1 + random() % 5000);
    return sizes;
  }
  for (i32& size : sizes)
    size = kind == 2 ? static_cast<i32>(random() % 400) : kMenu[random() % std::size(kMenu)];
  return sizes;
}

std::size_t random_groups(std::mt19937& random) {
  return random() % 4 == 0 ? 1 + random() % 512 : 1 + random() % 40;
}

}  // namespace

TEST_CASE("with every tile of the menu each part of each group is visited exactly once",
          "[schedule]") {
  const Sizes shapes[] = {{0, 1, 127, 128, 129, 0}, {0, 0, 0},    {0, 1000, 0, 0},
                          {1, 1, 1, 1, 1, 1, 1},    {5000, 0, 3}, {64, 192, 256, 320, 384}};
  for (const u32 n : {8u, 520u, 1032u}) {
    for (const jit::Layout layout :
         {jit::Layout::kGroupedContiguous, jit::Layout::kGroupedMasked}) {
      for (TileShape shape : menu(problem_of(layout, n))) {
        for (const Sizes& sizes : shapes) {
          const bool masked = layout == jit::Layout::kGroupedMasked;
          const auto groups = masked ? rows_by_mask(sizes, 5000) : rows_by_ends(sizes, 1, 7);
          INFO(shape.block_m << "x" << shape.block_n << " c" << shape.cluster_m << "x"
                             << shape.cluster_n << " n=" << n);
          for (const u32 row_unit : {1u, 4u}) {
            shape.row_unit = row_unit;
            REQUIRE(run_row_groups(groups, n, shape, 132 / (shape.cluster_m * shape.cluster_n)) ==
                    "");
          }
        }
      }
    }
  }
}

TEST_CASE("thousands of random group shapes are visited exactly once at every alignment",
          "[schedule]") {
  std::mt19937 random(11);
  const auto tiles = menu(problem_of(jit::Layout::kGroupedContiguous, 2112));
  for (int round = 0; round < kiln::test::by_build(4000, 1000); ++round) {
    const Sizes sizes = random_sizes(random, random_groups(random));
    const u32 alignment = 1u << random() % 9, n = 8 * (1 + random() % 150);
    TileShape shape = tiles[random() % tiles.size()];
    shape.row_unit = 1u << random() % 4;
    INFO("round " << round << " groups " << sizes.size() << " alignment " << alignment);
    REQUIRE(run_row_groups(rows_by_ends(sizes, alignment, random() % 300), n, shape,
                           1 + random() % 132) == "");
    const u32 m = 1 + random() % 6000;
    REQUIRE(run_row_groups(rows_by_mask(sizes, m), n, shape, 1 + random() % 132) == "");
  }
}

TEST_CASE("a tile row for one of two CTAs alone takes half as many tiles of the cluster",
          "[schedule]") {
  const TileShape shape{128, 8, 2, 1, 8};
  const std::vector<GroupRows> groups{{0, 300}, {0, 500}};  // 256 and 44, 256 and 244
  for (const u32 num_n : {1u, 2u, 7u}) {
    const GroupTable<Array> table = table_of(groups, shape.of_cluster(), num_n);
    std::size_t tiles = 0, lone = 0;
    for (u32 cluster = 0; cluster < 3; ++cluster) {
      for (const Site& site : sites_of(table, shape.of_cluster(), {num_n, 3, 8}, cluster, 0)) {
        ++tiles;
        lone += site.lone;
      }
    }
    CHECK(lone == (num_n == 1 ? 0 : (num_n + 1) / 2));
    CHECK(tiles == 3 * num_n + (num_n + 1) / 2);
  }
}

TEST_CASE("a partial tile's turn comes with the whole tiles of its column", "[schedule]") {
  const TileShape shape{128, 8, 1, 1, 8};
  const std::vector<GroupRows> groups{{0, 900}, {0, 1100}, {0, 100}, {0, 1300}};
  constexpr u32 kColumns = 40, kClusters = 13;
  const GroupTable<Array> table = table_of(groups, shape.of_cluster(), kColumns);
  for (u32 cluster = 0; cluster < kClusters; ++cluster) {
    const Site* whole = nullptr;
    for (const Site& site :
         sites_of(table, shape.of_cluster(), {kColumns, kClusters, 8}, cluster, 0)) {
      if (site.row + 128 <= site.row_end) {
        whole = &site;
      } else if (site.group == 3) {  // the last group's come last
        REQUIRE(whole->group == 3);
      } else if (whole != nullptr && whole->group == site.group) {
        REQUIRE(whole->column / 8 + 4 >= site.column / 8);
        REQUIRE(whole->column / 8 <= site.column / 8 + 4);
      }
    }
  }
}

TEST_CASE("a group's tiles are visited once, in bands of about raster_group rows", "[schedule]") {
  constexpr u32 kColumns = 5;
  for (const u32 raster : {1u, 2u, 7u, 8u, 16u, 1024u}) {
    for (u32 rows = 1; rows < 300; ++rows) {
      const u32 last = last_band(rows, raster);
      INFO(raster << " " << rows);
      REQUIRE(last % raster == 0);
      REQUIRE(rows - last <= raster + raster / 2);
      REQUIRE((rows - last >= (raster + 1) / 2 || last == 0));
      std::vector<u32> visits(rows * kColumns, 0);
      for (u32 item = 0; item < rows * kColumns; ++item) {
        const TileCoord t = tile_in_group(item, rows, kColumns, raster);
        REQUIRE((t.m < rows && t.n < kColumns));
        REQUIRE((t.m >= last) == (item >= last * kColumns));
        ++visits[t.m * kColumns + t.n];
      }
      REQUIRE(std::all_of(visits.begin(), visits.end(), [](u32 count) { return count == 1; }));
    }
  }
}

TEST_CASE("a group's rows are those that its ends and the alignment say", "[schedule]") {
  const auto groups = rows_by_ends({0, 1, 127, 0, 128, 129}, 128, 0);
  const std::vector<std::pair<u32, u32>> expected{{0, 0},     {0, 1},     {128, 255},
                                                  {256, 255}, {256, 384}, {384, 513}};
  for (std::size_t g = 0; g < groups.size(); ++g) {
    CHECK(groups[g].start == expected[g].first);
    CHECK(groups[g].end == expected[g].second);
  }
  const auto ragged = rows_by_ends({3, 0, 5}, 1, 0);
  CHECK(ragged[0].end == 3);
  CHECK(all_tiles_of(ragged[1], rows_only(64)) == 0);
  CHECK(ragged[2].start == 3);
  CHECK(ragged[2].end == 8);
}

TEST_CASE("a group's first tile starts at its first row or at the unit of rows before it",
          "[schedule]") {
  for (const u32 unit : {1u, 2u, 4u, 8u}) {
    for (u32 start = 0; start < 300; ++start) {
      const u32 first = first_tile_row(start, rows_only(64, unit));
      REQUIRE(first % unit == 0);
      REQUIRE(first <= start);
      REQUIRE(start - first < unit);
    }
  }
  CHECK(all_tiles_of({63, 128}, rows_only(64, 1)) == 2);
  CHECK(all_tiles_of({63, 124}, rows_only(64, 4)) == 1);  // from row 60
  CHECK(all_tiles_of({63, 125}, rows_only(64, 4)) == 2);
}

TEST_CASE("whatever the ends are, rows stay inside D", "[schedule]") {
  std::mt19937 random(12);
  constexpr i32 kWild[] = {INT_MIN, -1, 0, 1, 100, 1 << 20, INT_MAX - 1, INT_MAX};
  for (int round = 0; round < 20'000; ++round) {
    const u32 m = random() % 3 == 0 ? 0x7ffffe00u : random() % 2000,
              alignment = 1u << random() % 11;
    const GroupRows rows = rows_between(kWild[random() % 8], kWild[random() % 8], alignment, m);
    REQUIRE(rows.end <= m);
    REQUIRE(rows.start % alignment == 0);
    // A start behind the end is an empty group, never a wrapped one.
    REQUIRE((rows.start < rows.end || all_tiles_of(rows, rows_only(64, 4)) == 0));
  }
  CHECK(clamp_to(INT_MIN, 5) == 0);
  CHECK(clamp_to(5, 5) == 5);
  CHECK(clamp_to(INT_MAX, 5) == 5);
}

TEST_CASE("the group of a tile row is found among empty groups", "[schedule]") {
  std::mt19937 random(13);
  for (int round = 0; round < 2000; ++round) {
    const GroupTable<Array> table =
        table_of(rows_by_ends(random_sizes(random, random_groups(random)), 1, 0), rows_only(64), 1);
    const auto& first = table.first_whole.values;
    const auto at = [&](u32 i) { return first[i]; };
    for (u32 tile = 0; tile < first.back(); tile += 1 + random() % 7) {
      const u32 group = find_group(at, static_cast<u32>(first.size() - 1), tile);
      REQUIRE(first[group] <= tile);
      REQUIRE(tile < first[group + 1]);
    }
  }
}

TEST_CASE("every group of K has every tile of its D exactly once, with every tile of the menu",
          "[schedule]") {
  std::mt19937 random(14);
  const auto tiles = menu(problem_of(jit::Layout::kGroupedK, 7168));
  for (int round = 0; round < kiln::test::by_build(2000, 200); ++round) {
    const TileShape& shape = tiles[static_cast<std::size_t>(round) % tiles.size()];
    const TileSize size = shape.of_cluster();
    const u32 groups = 1 + random() % (round % 10 == 0 ? 512 : 16), m = 1 + random() % 2500,
              n = 8 * (1 + random() % 300);
    const u32 num_m = (m + size.rows - 1) / size.rows,
              num_n = (n + size.columns - 1) / size.columns;
    std::vector<std::uint8_t> visits(std::size_t{groups} * num_m * num_n, 0);
    const u32 num_clusters = 1 + random() % 132;
    for (u32 cluster = 0; cluster < num_clusters; ++cluster) {
      for (u32 item = cluster; item < groups * num_m * num_n; item += num_clusters) {
        const GroupTile t = k_group_tile(item, num_m, num_n, shape.raster_group);
        REQUIRE((t.group < groups && t.tile.m < num_m && t.tile.n < num_n));
        ++visits[(std::size_t{t.group} * num_m + t.tile.m) * num_n + t.tile.n];
      }
    }
    REQUIRE(std::all_of(visits.begin(), visits.end(), [](std::uint8_t c) { return c == 1; }));
  }
}

TEST_CASE("ranges of K follow each other in whole blocks and have every block once", "[schedule]") {
  std::mt19937 random(15);
  for (int round = 0; round < 3000; ++round) {
    const std::size_t groups = random_groups(random);
    i32 end = 0;
    u32 next_block = 0;
    Sizes ends;
    for (std::size_t g = 0; g < groups; ++g) {
      if (random() % 4 != 0) end = (end + 127) / 128 * 128 + static_cast<i32>(1 + random() % 600);
      ends.push_back(end);
    }
    const u32 k_blocks = (static_cast<u32>(end) + 127) / 128 + random() % 3;
    for (std::size_t g = 0; g < groups; ++g) {
      const i32 before = g == 0 ? 0 : ends[g - 1];
      const KRange range = k_between(before, ends[g], k_blocks);
      REQUIRE(range.begin == next_block);
      REQUIRE((range.blocks == 0) == (ends[g] == before));
      REQUIRE(range.begin * 128 + range.blocks * 128 >= static_cast<u32>(ends[g]));
      next_block = range.begin + range.blocks;
    }
    REQUIRE(next_block == (static_cast<u32>(end) + 127) / 128);
  }
}

TEST_CASE("whatever the ends are, ranges of K stay inside the operands", "[schedule]") {
  std::mt19937 random(16);
  constexpr i32 kWild[] = {INT_MIN, -1, 0, 1, 128, 129, 1 << 20, INT_MAX - 1, INT_MAX};
  for (int round = 0; round < 20'000; ++round) {
    const u32 k_blocks = random() % 3 == 0 ? 16'777'212u : random() % 100;
    const KRange range = k_between(kWild[random() % 9], kWild[random() % 9], k_blocks);
    REQUIRE(range.begin + range.blocks <= std::max(range.begin, k_blocks));
    REQUIRE(range.begin <= k_blocks);
  }
}
