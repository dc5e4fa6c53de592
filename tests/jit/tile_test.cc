#include "jit/tile.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <set>

#include "jit/error.h"
#include "jit/source.h"
#include "templates/smem_layout.cuh"
#include "tests/support/catch.h"

using namespace kiln;
using namespace kiln::jit;

namespace {

Problem problem(std::int64_t n, std::int64_t k, OutputType out = OutputType::kBf16) {
  return {.n = n, .k = k, .out = out};
}

Problem masked_groups(Problem p, std::int32_t groups) {
  p.layout = Layout::kGroupedMasked;
  p.group_form = GroupForm::kRows;
  p.groups = groups;
  return p;
}

// N and K of the weights of groups of rows that are measured.
constexpr std::array kWeights{std::pair(4096, 2048), std::pair(4096, 4096), std::pair(7168, 3072),
                              std::pair(6144, 7168)};

// A problem of each layout and scaling, with both outputs and both kinds of row scales.
std::vector<Problem> all_kinds() {
  std::vector<Problem> kinds;
  for (const Layout layout :
       {Layout::kDense, Layout::kGroupedContiguous, Layout::kGroupedMasked, Layout::kGroupedK}) {
    for (const Scaling scaling : {Scaling::k1d2d, Scaling::k1d1d}) {
      if (layout != Layout::kDense && (scaling == Scaling::k1d1d) != (layout == Layout::kGroupedK))
        continue;
      for (const OutputType out : {OutputType::kBf16, OutputType::kF32}) {
        for (const ScaleMajor major : {ScaleMajor::kRow, ScaleMajor::kM}) {
          if (scaling == Scaling::k1d1d && major == ScaleMajor::kRow) continue;
          kinds.push_back({.layout = layout,
                           .scaling = scaling,
                           .n = 7168,
                           .k = 2048,
                           .out = out,
                           .sfa_major = major,
                           .accumulate = out == OutputType::kF32,
                           .group_form = default_group_form(layout),
                           .groups = layout == Layout::kDense ? 1 : 300,
                           .alignment = layout == Layout::kGroupedContiguous ? 1 : 0});
        }
      }
    }
  }
  return kinds;
}

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

std::string complaint(const Tile& tile, const Problem& p) {
  try {
    validate(tile, p);
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("every rule of a tile is enforced and named", "[tile]") {
  const Problem p = problem(7168, 2048);
  const Tile good{128, 128, 2, 1, 4, 1, 1, 8};
  REQUIRE(complaint(good, p).empty());
  const auto broken = [&](auto change) {
    Tile t = good;
    change(t);
    CHECK_FALSE(is_legal(t, p));
    return complaint(t, p);
  };
  CHECK(contains(broken([](Tile& t) { t.block_m = 96; }), "block_m must be a multiple of"));
  CHECK(contains(broken([](Tile& t) { t.block_m = 0; }), "block_m"));
  CHECK(contains(broken([](Tile& t) { t.block_m = 512; }), "64..256"));
  CHECK(contains(broken([](Tile& t) { t.block_n = 12; }), "block_n must be a multiple of 8"));
  CHECK(contains(broken([](Tile& t) { t.block_n = 264; }), "8..256"));
  CHECK(contains(broken([](Tile& t) { t.warpgroups_m = 5; }), "1 to 4 in all"));
  CHECK(contains(broken([](Tile& t) { t.warpgroups_m = 0; }), "1 to 4 in all"));
  CHECK(contains(broken([](Tile& t) { t.stages = 1; }), "stages"));
  CHECK(contains(broken([](Tile& t) { t.stages = 7; }), "shared memory must be at most 232448"));
  CHECK(contains(broken([](Tile& t) { t.cluster_m = 3; }), "cluster"));
  CHECK(
      contains(broken([](Tile& t) { t.cluster_m = 4, t.cluster_n = 4; }), "product of at most 8"));
  CHECK(contains(broken([](Tile& t) { t.block_n = 8, t.cluster_m = 2; }), "8 * cluster_m"));
  CHECK(contains(broken([](Tile& t) { t.raster_group = 0; }), "raster_group"));
  CHECK(contains(broken([](Tile& t) { t.block_m = 256, t.block_n = 192; }), "registers"));
  CHECK(contains(broken([](Tile& t) { t.warpgroups_m = 1 << 30, t.warpgroups_n = 1 << 30; }),
                 "1 to 4"));
}

TEST_CASE("every rule of tiles for few rows is enforced and named", "[tile]") {
  const Tile good{8, 32, 1, 1, 14, 1, 1, 1, 2, 2, 2};
  REQUIRE(complaint(good, problem(7168, 2048)).empty());
  const auto broken = [&](auto change, const Problem& p) {
    Tile t = good;
    change(t);
    CHECK_FALSE(is_legal(t, p));
    return complaint(t, p);
  };
  const Problem p = problem(7168, 2048);
  CHECK(contains(broken([](Tile& t) { t.block_m = 24; }, p), "or 8, 16 or 32"));
  CHECK(contains(broken([](Tile& t) { t.warpgroups_m = 2; }, p), "block_m"));
  CHECK(contains(broken([](Tile& t) { t.warpgroups_k = 5; }, p), "1 to 4 in all"));
  CHECK(contains(broken([](Tile& t) { t.warpgroups_k = 4; }, p), "multiple of warpgroups_k = 4"));
  CHECK(contains(broken([](Tile& t) { t.cluster_k = 3; }, p), "1, 2, 4 or 8"));
  CHECK(contains(broken([](Tile& t) { t.cluster_k = 8, t.cluster_m = 2; }, p), "at most 8"));
  CHECK(contains(broken([](Tile& t) { t.cluster_m = 2; }, p), "cluster_m and cluster_n are 1"));
  CHECK(contains(broken([](Tile& t) { t.stage_blocks = 3; }, p), "stage_blocks must be 1, 2, 4"));
  CHECK(contains(broken([](Tile& t) { t.block_m = 128; }, p), "at most 64 * warpgroups_m = 64"));
  CHECK(contains(broken([](Tile& t) { t.stages = 16; }, problem(7168, 2000)), "K is a multiple"));
  CHECK(
      contains(broken([](Tile& t) { t.stages = 4; }, problem(7168, 256)), "stages of 2 k-blocks"));
  CHECK(contains(broken([](Tile&) {}, masked_groups(p, 4)), "the layout is dense"));
  Problem gradient = p;
  gradient.scaling = Scaling::k1d1d;
  gradient.sfa_major = ScaleMajor::kM;
  CHECK(contains(broken([](Tile& t) { t.block_m = 64; }, gradient), "scaling is 1d2d"));
  CHECK(contains(broken([](Tile&) {}, gradient), "block_m"));
}

TEST_CASE("every rule of passes over a warpgroup's columns is enforced and named", "[tile]") {
  const Problem p = problem(7168, 2048);
  Problem gradient = p;
  gradient.scaling = Scaling::k1d1d;
  gradient.sfa_major = ScaleMajor::kM;
  gradient.out = OutputType::kF32;
  const Tile good{128, 256, 2, 1, 4, 2, 1, 8};
  REQUIRE(complaint(good, p).empty());
  REQUIRE(complaint(parse_tile("128x192/2x1/s4/c1x1/r8", "tile"), gradient).empty());
  REQUIRE(complaint(parse_tile("128x256/2x1/s3/c1x1/r8", "tile"), gradient).empty());
  const auto broken = [&](const char* text, const Problem& of) {
    const Tile t = parse_tile(text, "tile");
    CHECK_FALSE(is_legal(t, of));
    return complaint(t, of);
  };
  CHECK(contains(broken("128x224/2x1/s4", p), "at most 192 columns"));
  CHECK(contains(broken("128x224/2x1/s3", gradient), "at most 168 columns"));
  CHECK(contains(broken("128x224/2x1/s3", gradient), "or 192 or 256, got 224"));
  CHECK(contains(broken("128x256/1x1/s4", p), "block_m must be 64 * warpgroups_m = 64"));
  CHECK(contains(broken("64x256/1x1x2/s4", p), "warpgroups_k and stage_blocks 1, got 64, 2"));
  CHECK(contains(broken("32x256/1x1/s4", p), "got 32, 1 and 1: use more warpgroups_n"));
  CHECK(contains(broken("192x256/3x1/s2", p), "registers"));
  CHECK(contains(broken("192x192/3x1/s3", gradient), "registers"));
  CHECK(contains(broken("128x256/2x1/s4", gradient), "4 stages leave none: use fewer stages"));
  gradient.accumulate = true;
  gradient.k = 512;
  REQUIRE_FALSE(reduces(gradient));
  CHECK(contains(broken("128x192/2x1/s4", gradient), "where C is loaded"));
}

TEST_CASE("the menu holds only legal tiles, each once, for every layout", "[tile]") {
  for (const Problem& p : all_kinds()) {
    INFO(describe(p));
    validate(p);
    const std::vector<Tile> menu = legal_tiles(p);
    CHECK(menu.size() > 20);
    CHECK(std::set<Tile>(menu.begin(), menu.end()).size() == menu.size());
    for (const Tile& tile : menu) {
      CHECK(complaint(tile, p).empty());
      CHECK(smem_bytes(tile, p) <= device::kMaxSmemBytes);
      CHECK(threads(tile) <= 640);
    }
  }
}

TEST_CASE("a plan covers every M without gaps, with legal tiles that differ from their neighbours",
          "[tile]") {
  std::mt19937 random(7);
  const std::vector<Problem> kinds = all_kinds();
  for (std::size_t round = 0; round < 60; ++round) {
    Problem p = kinds[round % kinds.size()];
    p.n = 8 * (1 + random() % 5000);
    p.k = 16 * (1 + random() % 2000);
    if (is_grouped(p)) p.groups = static_cast<std::int32_t>(1 + random() % 1024);
    INFO(describe(p));
    const Machine machine{static_cast<std::int32_t>(1 + random() % 144)};
    const std::vector<TileInterval> plan = plan_tiles(p, machine);
    REQUIRE_FALSE(plan.empty());
    CHECK(plan.front().m_min == 0);
    CHECK(plan.back().m_max == kMaxM);
    for (std::size_t i = 0; i < plan.size(); ++i) {
      CHECK(plan[i].m_min <= plan[i].m_max);
      CHECK(complaint(plan[i].tile, p).empty());
      if (i == 0) continue;
      CHECK(plan[i].m_min == plan[i - 1].m_max + 1);
      CHECK(plan[i].tile != plan[i - 1].tile);
    }
    CHECK(plan == plan_tiles(p, machine));
    std::set<Tile> tiles;
    for (const TileInterval& interval : plan) tiles.insert(interval.tile);
    CHECK(tiles.size() <= kMaxPlanTiles);
    p.batch_invariant = true;
    CHECK(plan_tiles(p, machine) ==
          std::vector<TileInterval>{{0, kMaxM, choose_tile(p, middle_m(p), machine)}});
  }
}

TEST_CASE("a plan around given intervals keeps them, covers every M and stays within the limit",
          "[tile]") {
  std::mt19937 random(11);
  const std::vector<Problem> kinds = all_kinds();
  const Machine machine{132};
  std::size_t dropped = 0;
  for (std::size_t round = 0; round < 60; ++round) {
    const Problem p = kinds[round % kinds.size()];
    const std::vector<Tile> menu = legal_tiles(p);
    std::vector<TileInterval> given;
    std::int64_t first = static_cast<std::int64_t>(random() % 3);
    for (std::size_t i = 0; i < random() % 8; ++i) {
      Tile tile = menu[random() % menu.size()];
      tile.raster_group = static_cast<std::int32_t>(100 + i);  // none of the default choice
      const auto last = first + static_cast<std::int64_t>(random() % 3000);
      given.push_back({first, last, tile});
      first = last + 1 + static_cast<std::int64_t>(random() % 2 * (random() % 3000));
    }
    INFO(describe(p) << " around " << given.size());
    const std::vector<TileInterval> plan = plan_tiles_around(given, p, machine);
    if (given.empty()) CHECK(plan == plan_tiles(p, machine));
    REQUIRE_FALSE(plan.empty());
    std::set<Tile> tiles;
    std::int64_t next = 0;
    for (const TileInterval& interval : plan) {
      CHECK(interval.m_min == next);
      CHECK(interval.m_max >= interval.m_min);
      tiles.insert(interval.tile);
      next = interval.m_max + 1;
    }
    CHECK(next == kMaxM + 1);
    CHECK(tiles.size() <= kMaxPlanTiles);
    dropped += tiles.size() == kMaxPlanTiles ? 1 : 0;
    for (const TileInterval& interval : given)
      CHECK(std::count(plan.begin(), plan.end(), interval) == 1);
  }
  CHECK(dropped > 5);
}

TEST_CASE("a tile that is legal for a problem is legal for its canonical form, at the same bytes",
          "[tile]") {
  for (const Problem& p : all_kinds()) {
    for (const Tile& tile : legal_tiles(p)) {
      CHECK(is_legal(tile, canonical(p)));
      CHECK(smem_bytes(tile, p) == smem_bytes(tile, canonical(p)));
    }
  }
}

TEST_CASE("masked groups of few rows get short tiles, of many rows tall ones", "[tile]") {
  const Problem p = masked_groups(problem(4096, 7168), 32);
  CHECK(choose_tile(p, 20, {}).block_m == 64);
  CHECK(choose_tile(p, 4096, {}).block_m >= 128);
}

TEST_CASE("masked groups around 192 rows get tiles, or clusters, that hold nearly all of them",
          "[tile]") {
  const Problem p = masked_groups(problem(6144, 7168), 32);
  for (const std::int64_t m : {160, 192, 230}) {
    const Tile t = choose_tile(p, m, {});
    CHECK(t.block_m * t.cluster_m == 256);
    CHECK(t.stages == 4);
  }
}

TEST_CASE("masked groups of few rows get tiles of 128 columns at most that fill the last round",
          "[tile]") {
  constexpr double kSms = 132;
  for (const std::int32_t groups : {6, 32}) {
    for (const auto& [n, k] : kWeights) {
      const Problem p = masked_groups(problem(n, k), groups);
      const Tile t = choose_tile(p, 20, {});
      INFO(describe(t));
      CHECK(t.block_m == 64);
      CHECK(t.block_n <= 128);
      const double tiles = groups * std::ceil(static_cast<double>(n) / t.block_n);
      CHECK(tiles / (std::ceil(tiles / kSms) * kSms) > 0.84);
    }
  }
}

TEST_CASE("the plan of masked groups expected to have 192 rows reckons with larger ones",
          "[tile]") {
  const Problem p = masked_groups(problem(7168, 3072), 32);
  for (const TileInterval& interval : plan_tiles(p, {}))
    if (interval.m_min <= 192 && 192 <= interval.m_max)
      CHECK(interval.tile.block_m * interval.tile.cluster_m == 256);
}

TEST_CASE("long contiguous groups get pairs of large tiles, four stages where K is long",
          "[tile]") {
  for (const std::int32_t groups : {4, 8}) {
    for (const auto& [n, k] : kWeights) {
      Problem p = problem(n, k);
      p.layout = Layout::kGroupedContiguous;
      p.group_form = GroupForm::kEnds;
      p.groups = groups;
      p.alignment = 128;
      const Tile t = choose_tile(p, 32768, {});
      INFO(describe(t));
      CHECK(t.block_m * t.block_n == 128 * 256);
      CHECK(cluster_size(t) == 2);
      CHECK(t.stages == (k < 3072 ? 3 : 4));
      CHECK(t.raster_group == (n > 4096 ? 8 : 1));  // 21 and 42 MiB of weights to a group
    }
  }
}

TEST_CASE("small M gets short tiles, large M large ones", "[tile]") {
  const Problem p = problem(7168, 16384);
  CHECK(choose_tile(p, 1, {}).block_m == 8);
  CHECK(choose_tile(p, 12, {}).block_m == 16);
  const Tile large = choose_tile(p, 4096, {});
  CHECK(large.block_m * large.block_n >= 192 * 128);
  CHECK(estimate_us(p, choose_tile(p, 4096, {}), 4096, {}) <
        estimate_us(p, choose_tile(p, 1, {}), 4096, {}));
}

TEST_CASE("a tile's text form is read back, trailing parts may be left out", "[tile]") {
  for (const Tile& tile : legal_tiles(problem(7168, 2048)))
    CHECK(parse_tile(describe(tile), "--tile") == tile);
  CHECK(parse_tile("256x128", "--tile") == Tile{256, 128, 2, 1, 4, 1, 1, 8});
  CHECK(parse_tile("64x96/1x2", "--tile") == Tile{64, 96, 1, 2, 4, 1, 1, 8});
  CHECK(parse_tile("192x128/3x1/s5", "--tile") == Tile{192, 128, 3, 1, 5, 1, 1, 8});
  CHECK(parse_tile("8x32/1x1x2/s14x2/c1x1x4/r1", "--tile") ==
        Tile{8, 32, 1, 1, 14, 1, 1, 1, 2, 4, 2});
  CHECK(parse_tile("64x32/1x1x2", "--tile") == Tile{64, 32, 1, 1, 4, 1, 1, 8, 2});
  for (const char* bad :
       {"8x32/1x1x/s2", "8x32/1x1/s2x", "8x32/1x1/s2/c1x1x/r1", "8x32x2/1x1", "", "128", "128x",
        "x128", "128x128/", "128x128/2", "128x128/2x1/4", "128x128/2x1/s4/c2",
        "128x128/2x1/s4/c2x1/r8/", "128x128 ", "99999999999x8", "-64x128/2x1/s4/c1x1/r8x"})
    CHECK_THROWS_AS(parse_tile(bad, "--tile"), Error);
}

TEST_CASE("the tensor cores multiply scales where there is room, for which a stage is given up",
          "[tile]") {
  Problem p{.n = 4096, .k = 4096, .out = OutputType::kF32, .sfa_major = ScaleMajor::kM};
  p.scaling = Scaling::k1d1d;
  struct Case {
    Tile tile;  // with any number of stages
    std::int32_t stages;
    bool scale_terms;
  };
  const Case cases[] = {
      {{128, 192, 1, 2, 2, 1, 1, 8}, 4, true},
      {{256, 128, 1, 2, 2, 1, 1, 8}, 3, true},  // 4 without
      {{192, 96, 3, 1, 2, 1, 1, 8}, 4, false},  // 160 registers
      {{128, 224, 1, 2, 2, 1, 1, 8}, 4, false},
  };
  for (const Case& c : cases) {
    Tile t = c.tile;
    t.stages = most_stages(t, p);
    INFO(describe(t));
    CHECK(t.stages == c.stages);
    CHECK(layout_of(t, p).scale_terms == c.scale_terms);
  }
  Tile t = cases[0].tile;
  t.stages = 3;
  p.accumulate = true;
  CHECK(layout_of(t, p).scale_terms);
  p.k = kReduceFromK - 16;  // C comes through the slots, and needs the room
  CHECK_FALSE(layout_of(t, p).scale_terms);
  p.scaling = Scaling::k1d2d;
  CHECK_FALSE(layout_of(t, p).scale_terms);
}

TEST_CASE("the regions of shared memory are aligned, in order and within the launch's bytes",
          "[tile]") {
  const auto u = [](std::int32_t value) { return static_cast<std::uint32_t>(value); };
  for (const Problem& p : all_kinds()) {
    const bool row_major = p.sfa_major == ScaleMajor::kRow, columns = p.scaling == Scaling::k1d1d;
    const std::uint32_t capacity = has_row_groups(p) ? u(group_capacity(p)) : 0;
    for (const Tile& t : legal_tiles(p)) {
      INFO(describe(p) << " " << describe(t));
      const auto l = layout_of(t, p);
      const std::uint32_t stages = u(t.stages), blocks = u(t.stage_blocks);
      const std::uint32_t warps =
          u(t.warpgroups_m * t.warpgroups_n) * device::store_warps(u(t.block_m));
      const std::uint32_t parts = u(t.cluster_k), owned = (warps + parts - 1) / parts;
      CHECK(l.a % 1024 == 0);
      CHECK(l.b == l.a + stages * l.a_stage_bytes);
      CHECK(l.b % 1024 == 0);
      CHECK(l.b_stage_bytes % 1024 == 0);
      CHECK(l.sfa_terms == l.b + stages * l.b_stage_bytes);
      const std::uint32_t terms = l.scale_terms ? stages * device::kTermBytes : 0;
      CHECK((l.sfb_terms == l.sfa_terms + terms * u(t.block_m) || !l.scale_terms));
      CHECK(l.d >= l.sfa_terms + terms * (u(t.block_m) + u(t.block_n)));
      CHECK((columns || !l.scale_terms));
      CHECK(l.d % 1024 == 0);
      CHECK(l.sfa >= l.d + warps * l.d_slots * device::kStoreRows * l.d_chunk_bytes);
      CHECK(l.sfa % 128 == 0);
      CHECK(l.sfa_stage_bytes % 128 == 0);
      CHECK(l.sfa_stage_bytes >= blocks * u(t.block_m) * 4);
      CHECK(l.sfb == l.sfa + stages * l.sfa_stage_bytes);
      CHECK((!columns || (l.sfb % 128 == 0 && l.sfb_stage_bytes % 128 == 0)));
      CHECK(l.sfb_stage_bytes >= blocks * (columns ? u(t.block_n) * 4 : 12));
      CHECK(l.sfa_rows == l.sfb + stages * l.sfb_stage_bytes);
      CHECK((l.sfa_group_bytes > 0) == row_major);
      CHECK(l.partials == l.sfa_rows + device::sfa_groups(u(t.block_m)) * l.sfa_group_bytes);
      CHECK(l.gathered == l.partials + (u(t.warpgroups_k) - 1) * l.partial_bytes);
      CHECK(l.gathered % 16 == 0);
      CHECK(l.site == l.gathered + (parts - 1) * owned * l.gathered_bytes);
      CHECK(l.site % 16 == 0);
      CHECK(l.groups == l.site + stages * device::kSiteBytes);
      CHECK(l.full >= l.groups + (capacity == 0 ? 0 : (capacity + 1) * device::kGroupBytes));
      CHECK(l.full % 8 == 0);
      CHECK(l.empty == l.full + stages * 8);
      CHECK(l.scales == l.empty + stages * 8);
      CHECK(l.c_full == l.scales + (l.scale_terms ? stages * 8 : 0));
      CHECK(l.gather_full == l.c_full + warps * l.d_slots * 8);
      CHECK(l.gather_empty == l.gather_full + (parts > 1 ? warps * 8 : 0));
      CHECK(l.total == l.gather_empty + (parts > 1 ? warps * 8 : 0));
      CHECK(l.total == smem_bytes(t, p));
      CHECK(l.d_slots >= 1);
      CHECK(l.d_slots <= l.d_chunks);
    }
  }
}

// 32 lanes store 8 bytes each, in two halves of 16: 4 lanes a row, 4 rows that cover all 32 banks.
TEST_CASE("lanes that stage FP32 results meet each bank once", "[tile]") {
  for (const std::uint32_t chunk_bytes : {32u, 64u, 128u}) {
    const std::uint32_t fragments = chunk_bytes / 32;
    for (std::uint32_t first_row = 0; first_row < 16; first_row += 4) {
      std::set<std::uint32_t> offsets;
      for (std::uint32_t turn = 0; turn < fragments; ++turn) {
        std::set<std::uint32_t> banks;
        for (std::uint32_t lane = 0; lane < 16; ++lane) {
          const std::uint32_t row = first_row + lane / 4;
          const std::uint32_t fragment = device::fragment_in_turn(turn, row, chunk_bytes);
          REQUIRE(fragment < fragments);
          const std::uint32_t offset =
              device::staged_offset(row, fragment * 2 + lane % 4 / 2, chunk_bytes) + lane % 2 * 8;
          offsets.insert(offset);
          banks.insert(offset / 4 % 32);
          banks.insert(offset / 4 % 32 + 1);
        }
        CHECK(banks.size() == 32);
      }
      CHECK(offsets.size() == std::size_t{16} * fragments);  // every element has a place of its own
    }
  }
}
