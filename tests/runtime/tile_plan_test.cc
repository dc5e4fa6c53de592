// The plan of tiles over all M, made of tuned intervals and the default choice.
#include <algorithm>
#include <vector>

#include "tests/runtime/tuned_support.h"

namespace kiln::test {

TEST_CASE("a plan has the tuned intervals, and the default choice in their gaps", "[tuned]") {
  const auto defaults = jit::plan_tiles(dense(), kMachine);
  const runtime::TilePlan without = runtime::plan_tiles(dense(), kMachine, {});
  REQUIRE(without.tiles.size() == defaults.size());
  for (std::size_t i = 0; i < defaults.size(); ++i)
    CHECK(without.tiles[i] == runtime::PlannedTile{defaults[i], TileSource::kDefault});
  CHECK(without.match == TunedMatch::kNone);

  const runtime::TilePlan whole = runtime::plan_tiles(dense(), kMachine, tables_of({entry()}));
  CHECK(whole.match == TunedMatch::kExact);
  CHECK(whole.tiles == std::vector<runtime::PlannedTile>{
                           {{0, 64, tile(kSmall)}, TileSource::kTunedExact},
                           {{65, jit::kMaxM, tile(kLarge)}, TileSource::kTunedExact}});

  TunedEntry middle{dense(), {{300, 20'000, tile(kLarge), 4096, 100, {}, 0}}};
  const runtime::TilePlan gaps = runtime::plan_tiles(dense(), kMachine, tables_of({middle}));
  CHECK(broken_rule(gaps, dense()).empty());
  for (const auto& [interval, source] : gaps.tiles) {
    CHECK((source == TileSource::kTunedExact) == (interval.m_min == 300));
    if (source == TileSource::kTunedExact) continue;
    // The default tile there, or where that makes too many, another of the menu.
    const std::vector<jit::Tile> menu = jit::legal_tiles(dense());
    CHECK(std::find(menu.begin(), menu.end(), interval.tile) != menu.end());
  }
}

TEST_CASE("where the default choice in the gaps would be too many tiles the tuned ones serve there",
          "[tuned]") {
  TunedEntry e{dense(), {}};
  for (int i = 0; i < 8; ++i) {
    jit::Tile t = tile(kSmall);
    t.raster_group = 20 + i;
    e.intervals.push_back({10 + 100 * i, 50 + 100 * i, t, 50 + 100 * i, 1.0, {}, 0});
  }
  const runtime::TilePlan plan = runtime::plan_tiles(dense(), kMachine, tables_of({e}));
  CHECK(broken_rule(plan, dense()).empty());
  for (const runtime::TunedInterval& tuned : e.intervals) {
    CHECK(std::count(plan.tiles.begin(), plan.tiles.end(),
                     runtime::PlannedTile{{tuned.m_min, tuned.m_max, tuned.tile},
                                          TileSource::kTunedExact}) == 1);
  }
  for (const auto& [interval, source] : plan.tiles) {
    const bool is_tuned =
        std::any_of(e.intervals.begin(), e.intervals.end(),
                    [&, tile = interval.tile](const auto& i) { return i.tile == tile; });
    CHECK(is_tuned);
  }
}

TEST_CASE("a few tuned intervals leave the others to tiles that suit them", "[tuned]") {
  // Tiles that the default choice does not have, at the ends: with them there are too many.
  const TunedEntry e{dense(),
                     {{0, 4, tile("64x16/1x1/s8/c1x1/r21"), 1, 1.0, {}, 0},
                      {65, 128, tile("64x64/1x1/s8/c1x1/r22"), 128, 1.0, {}, 0},
                      {3073, 4096, tile("128x128/2x1/s4/c1x1/r23"), 4096, 1.0, {}, 0}}};
  const runtime::TilePlan plan = runtime::plan_tiles(dense(), kMachine, tables_of({e}));
  CHECK(broken_rule(plan, dense()).empty());
  for (const auto& [interval, source] : plan.tiles) {
    if (source != TileSource::kDefault) continue;
    const std::int64_t m = std::min<std::int64_t>(interval.m_max, 16'384);
    const double us = jit::estimate_us(dense(), interval.tile, m, kMachine);
    const jit::Tile best = jit::choose_tile(dense(), m, kMachine);
    INFO(m << " " << jit::describe(interval.tile) << ", best " << jit::describe(best));
    CHECK(us < 1.25 * jit::estimate_us(dense(), best, m, kMachine));
  }
  CHECK(plan.tiles.size() > 5);
}

TEST_CASE("a batch_invariant problem has one tile for every M, tuned or not", "[tuned]") {
  jit::Problem p = dense();
  p.batch_invariant = true;
  const auto only = [&](const TunedTables& tables) {
    const runtime::TilePlan plan = runtime::plan_tiles(p, kMachine, tables);
    CHECK(broken_rule(plan, p).empty());
    REQUIRE(plan.tiles.size() == 1);
    return plan.tiles[0];
  };
  CHECK(only({}).interval.tile == jit::choose_tile(p, jit::middle_m(p), kMachine));
  CHECK(only({}).source == TileSource::kDefault);
  CHECK(only(tables_of({entry()})).interval.tile == tile(kLarge));
  CHECK(only(tables_of({entry()})).source == TileSource::kTunedExact);
  TunedEntry below{dense(), {{0, 64, tile(kSmall), 64, 3.25, {}, 0}}};
  // Tuned for few rows only: that says nothing about a tile that has to serve many too.
  CHECK(only(tables_of({below})) == only({}));
}

TEST_CASE("batch_invariant decides no kernel: canonical problems and their programs are the same",
          "[tuned]") {
  for (const jit::Problem& p : {dense(), contiguous(8)}) {
    jit::Problem fixed = p;
    fixed.batch_invariant = true;
    CHECK(fixed != p);
    CHECK(jit::describe(fixed) == jit::describe(p) + " batch_invariant");
    CHECK(jit::canonical(fixed) == jit::canonical(p));
    CHECK(jit::is_legal(tile(kLarge), fixed));
  }
}

}  // namespace kiln::test
