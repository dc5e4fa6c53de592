#include "jit/tile.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "jit/error.h"

namespace kiln::jit {
namespace {

std::int32_t consumers(const Tile& t) { return t.warpgroups_m * t.warpgroups_n * t.warpgroups_k; }

}  // namespace

device::SmemLayout layout_of(const Tile& t, const Problem& p) {
  const auto u = [](std::int32_t value) { return static_cast<std::uint32_t>(value); };
  return device::smem_layout(
      {u(t.block_m), u(t.block_n), u(t.warpgroups_m), u(t.warpgroups_n), u(t.warpgroups_k),
       u(t.stages), u(t.stage_blocks), u(t.cluster_n), u(t.cluster_k),
       static_cast<std::uint32_t>(element_bytes(p.out)), p.sfa_major == ScaleMajor::kRow,
       p.scaling == Scaling::k1d1d, p.scaling == Scaling::k1d1d && (!p.accumulate || reduces(p)),
       has_row_groups(p) ? static_cast<std::uint32_t>(group_capacity(p)) : 0});
}

namespace {

// Registers a consumer thread has after redistribution, and needs: one accumulator, one total per
// wave, the column scales, and what addresses take. In passes: the totals, the sums (and products)
// of one pass, and A.
std::int32_t registers_available(const Tile& t) {
  return static_cast<std::int32_t>(
      device::consumer_registers(static_cast<std::uint32_t>(consumers(t))));
}
std::int32_t registers_needed(const Tile& t, const Problem& p) {
  const bool column_scales = p.scaling == Scaling::k1d1d;
  if (const std::int32_t count = passes(t, p); count > 1)
    return (count + (column_scales ? 2 : 1)) * warpgroup_n(t) / count / 2 + 16 + 24;
  const std::int32_t sums = (waves(t) + 1) * warpgroup_n(t) / 2;
  return column_scales ? sums + warpgroup_n(t) / 4 + 20 : sums + 32;
}

bool in(std::int32_t value, std::int32_t low, std::int32_t high) {
  return value >= low && value <= high;
}
bool is_power_of_two_to_8(std::int32_t value) {
  return value == 1 || value == 2 || value == 4 || value == 8;
}

// The first rule that the sizes break, in words.
std::optional<std::string> broken_size(const Tile& t, const Problem& p) {
  if (!in(t.warpgroups_m, 1, 4) || !in(t.warpgroups_n, 1, 4) || !in(t.warpgroups_k, 1, 4) ||
      consumers(t) > 4)
    return fmt::format(
        "warpgroups_m x warpgroups_n x warpgroups_k must be 1 to 4 in all, got {}x{}x{}",
        t.warpgroups_m, t.warpgroups_n, t.warpgroups_k);
  const bool low = t.warpgroups_m == 1 && (t.block_m == 8 || t.block_m == 16 || t.block_m == 32) &&
                   p.scaling == Scaling::k1d2d;
  if (!low && (!in(t.block_m, 64, 256) || t.block_m % (64 * t.warpgroups_m) != 0))
    return fmt::format("block_m must be a multiple of 64 * warpgroups_m = {} in 64..256{}, got {}",
                       64 * t.warpgroups_m,
                       p.scaling == Scaling::k1d2d ? ", or 8, 16 or 32 with one of them" : "",
                       t.block_m);
  if (!in(t.block_n, 8, 256) || t.block_n % (8 * t.warpgroups_n) != 0)
    return fmt::format("block_n must be a multiple of 8 * warpgroups_n = {} in 8..256, got {}",
                       8 * t.warpgroups_n, t.block_n);
  if (!in(t.stages, 2, 32)) return fmt::format("stages must be in 2..32, got {}", t.stages);
  if (!is_power_of_two_to_8(t.stage_blocks))
    return fmt::format("stage_blocks must be 1, 2, 4 or 8, got {}", t.stage_blocks);
  if (!is_power_of_two_to_8(t.cluster_m) || !is_power_of_two_to_8(t.cluster_n) ||
      !is_power_of_two_to_8(t.cluster_k) || cluster_size(t) > 8)
    return fmt::format(
        "cluster_m, cluster_n and cluster_k must be 1, 2, 4 or 8 with a product of at most 8, got "
        "{}x{}x{}",
        t.cluster_m, t.cluster_n, t.cluster_k);
  if (t.block_m % (8 * t.cluster_n) != 0)
    return fmt::format(
        "block_m must be a multiple of 8 * cluster_n = {} (each CTA loads whole swizzle atoms), "
        "got {}",
        8 * t.cluster_n, t.block_m);
  if (t.block_n % (8 * t.cluster_m) != 0)
    return fmt::format(
        "block_n must be a multiple of 8 * cluster_m = {} (each CTA loads whole swizzle atoms), "
        "got {}",
        8 * t.cluster_m, t.block_n);
  if (!in(t.raster_group, 1, 1024))
    return fmt::format("raster_group must be in 1..1024, got {}", t.raster_group);
  return std::nullopt;
}

// The first rule that parts of K and stages of several k-blocks break, in words.
std::optional<std::string> broken_part(const Tile& t, const Problem& p) {
  const bool splits = t.warpgroups_k > 1 || t.cluster_k > 1;
  if (!splits && t.stage_blocks == 1) return std::nullopt;
  if (p.scaling == Scaling::k1d1d || t.block_m > 64 * t.warpgroups_m)
    return fmt::format(
        "warpgroups_k, cluster_k and stage_blocks must be 1 unless scaling is 1d2d and block_m at "
        "most 64 * warpgroups_m = {}, got {}, {} and {}",
        64 * t.warpgroups_m, t.warpgroups_k, t.cluster_k, t.stage_blocks);
  if (t.warpgroups_k > 1 && t.warpgroups_m > 1 && has_row_groups(p))
    return fmt::format("warpgroups_k must be 1 in row groups with {} warpgroups_m, got {}",
                       t.warpgroups_m, t.warpgroups_k);
  if ((t.cluster_k > 1 || t.stage_blocks > 1) &&
      (p.layout != Layout::kDense || t.cluster_m * t.cluster_n > 1))
    return fmt::format(
        "cluster_k and stage_blocks must be 1 unless the layout is dense and cluster_m and "
        "cluster_n are 1, got {} and {}",
        t.cluster_k, t.stage_blocks);
  if (t.stage_blocks > 1 && p.k % kScaleBlock != 0)
    return fmt::format("stage_blocks must be 1 unless K is a multiple of {}, got {}", kScaleBlock,
                       t.stage_blocks);
  if (t.stages % t.warpgroups_k != 0)
    return fmt::format("stages must be a multiple of warpgroups_k = {}, got {}", t.warpgroups_k,
                       t.stages);
  if (t.cluster_k > scale_blocks(p.k) || t.warpgroups_k > stages_of_tile(t, p))
    return fmt::format(
        "warpgroups_k x cluster_k must be at most the {} stages of {} k-blocks that K has, got "
        "{}x{}",
        ceil_div(scale_blocks(p.k), std::int64_t{t.stage_blocks}), t.stage_blocks, t.warpgroups_k,
        t.cluster_k);
  return std::nullopt;
}

// The first rule that passes over a warpgroup's columns break, in words.
std::optional<std::string> broken_pass(const Tile& t, const Problem& p) {
  if (passes(t, p) == 1) return std::nullopt;
  const bool column_scales = p.scaling == Scaling::k1d1d;
  const std::int32_t columns = warpgroup_n(t);
  if (columns != 256 && !(column_scales && columns == 192))
    return fmt::format(
        "a warpgroup must have at most {} columns (block_n / warpgroups_n), or {}256, got {}",
        column_scales ? 168 : 192, column_scales ? "192 or " : "", columns);
  if (t.block_m != 64 * t.warpgroups_m || t.warpgroups_k > 1 || t.stage_blocks > 1)
    return fmt::format(
        "a warpgroup of {} columns takes them in passes, where block_m must be 64 * warpgroups_m = "
        "{}, and warpgroups_k and stage_blocks 1, got {}, {} and {}: use more warpgroups_n",
        columns, 64 * t.warpgroups_m, t.block_m, t.warpgroups_k, t.stage_blocks);
  if (p.accumulate && !reduces(p))
    return fmt::format(
        "a warpgroup must have at most {} columns where C is loaded (accumulating, other than "
        "FP32 and long K), got {}: use more warpgroups_n",
        column_scales ? 168 : 192, columns);
  if (column_scales && !layout_of(t, p).scale_terms)
    return fmt::format(
        "a warpgroup of {} columns needs shared memory for scales that the tensor cores multiply, "
        "and {} stages leave none: use fewer stages",
        columns, t.stages);
  return std::nullopt;
}

// The first rule that the tile breaks, in words.
std::optional<std::string> broken_rule(const Tile& t, const Problem& p) {
  if (auto rule = broken_size(t, p)) return rule;
  if (auto rule = broken_part(t, p)) return rule;
  if (registers_needed(t, p) > registers_available(t))
    return fmt::format(
        "a consumer thread needs about {} registers and has {}: make block_n smaller or use more "
        "warpgroups",
        registers_needed(t, p), registers_available(t));
  if (auto rule = broken_pass(t, p)) return rule;
  const std::int64_t bytes = layout_of(t, p).total;
  if (bytes > device::kMaxSmemBytes)
    return fmt::format(
        "shared memory must be at most {} bytes, needs {}: use fewer stages or a smaller tile",
        device::kMaxSmemBytes, bytes);
  return std::nullopt;
}

}  // namespace

// As many stages as fit beside enough staging for D that its stores overlap, at most 16. Tall tiles
// are bound by the tensor cores rather than by latency: for them 4 stages that a tile takes whole
// rounds of (templates/gemm_shape.cuh) are better than 5 or 6 (H200, 4096x7168x16384, 128x192: 703
// us with 4, 721 with 5; 128x128: 718 with 4, 728 with 6).
std::int32_t most_stages(Tile t, const Problem& p) {
  const std::int32_t step = t.warpgroups_k, least = std::max(2, step);
  std::int64_t most = 16;
  if (is_for_few_rows(t)) most = std::clamp<std::int64_t>(stages_of_tile(t, p), least, 32);
  t.stages = static_cast<std::int32_t>(ceil_div(most, step)) * step;
  if (t.stages > 32) t.stages -= step;
  const auto fits = [&](const device::SmemLayout& l) {
    return l.total <= device::kMaxSmemBytes && l.d_slots >= std::min(2u, l.d_chunks);
  };
  while (t.stages > least && !fits(layout_of(t, p))) t.stages -= step;
  if (p.scaling == Scaling::k1d1d && t.stages > 3 && !layout_of(t, p).scale_terms) {
    // Multiplying scales in the tensor cores is worth a stage.
    Tile fewer = t;
    --fewer.stages;
    const auto layout = layout_of(fewer, p);
    if (layout.scale_terms && fits(layout)) return fewer.stages;
  }
  const std::int64_t k_blocks = scale_blocks(p.k);
  const bool whole_rounds = p.scaling == Scaling::k1d2d && k_blocks > 4 && k_blocks % 4 == 0;
  const bool tall = t.block_m >= 128 && !is_for_few_rows(t);
  if (!whole_rounds || !tall || t.stages > 6) return t.stages;
  const bool contiguous = p.layout == Layout::kGroupedContiguous && k_blocks >= 24;
  if (t.stages == 3 && (p.layout == Layout::kGroupedMasked || contiguous)) {
    // One slot for D will do. H200, 128x256 with 4 stages and with 3: 32 masked groups of 192 rows
    // 510 and 525 us (6144x7168), 267 and 279 (7168x3072); 4 and 8 contiguous groups 0.6 to 1.5 %
    // less from K = 3072 on (in whole rounds), 1.3 % more at 2048.
    t.stages = 4;
    return layout_of(t, p).total <= device::kMaxSmemBytes ? 4 : 3;
  }
  return std::min(t.stages, 4);
}

void validate(const Tile& tile, const Problem& problem) {
  if (auto rule = broken_rule(tile, problem))
    throw Error(Status::kInvalidArgument, fmt::format("tile {}: {}", describe(tile), *rule));
}

bool is_legal(const Tile& tile, const Problem& problem) { return !broken_rule(tile, problem); }

namespace {

// One family of the menu: its widths from `narrowest` to `widest`.
struct Shape {
  std::int32_t block_m, warpgroups_m, warpgroups_n, narrowest, widest;
};

// Widths from measurement: two warpgroups side by side pay from 48 columns each, one is slow
// beyond 128; 24, 144 and 176 columns lose to a neighbour nearly everywhere for their many column
// scales.
constexpr std::array kShapes{Shape{64, 1, 1, 16, 128},  Shape{64, 1, 2, 96, 256},
                             Shape{128, 2, 1, 32, 192}, Shape{128, 1, 2, 224, 256},
                             Shape{192, 3, 1, 64, 128}, Shape{256, 2, 1, 64, 128}};
// 1d1d loads a scale for each column, which two or more waves of a warpgroup share: fewer columns
// of more rows then take less of shared memory's bandwidth, which is what limits it.
constexpr std::array kShapes1d1d{Shape{64, 1, 2, 64, 256},   Shape{128, 2, 1, 32, 160},
                                 Shape{128, 1, 2, 128, 224}, Shape{192, 1, 2, 128, 160},
                                 Shape{192, 3, 1, 64, 96},   Shape{256, 1, 2, 96, 128},
                                 Shape{256, 2, 1, 64, 96}};
constexpr std::array kWidths{16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256};

// Short K is bound by writing D: taller bands then keep more of it close together (1 % at K = 512
// and 1536, M = 4096; 8 is better from K = 2048 on). The tile rows of a group go one after the
// other while its weights fit into L2 beside the rest (6 masked groups of about 1024 rows:
// 4096x2048 86.0 us so, 87.1 in bands of 8, 7168x3072 212.8 and 208.2, 6144x7168 419.7 and 398.9; 4
// contiguous groups 7168x3072 1030 and 1020).
std::int32_t raster_group(const Problem& p) {
  constexpr std::int64_t kWeightsInL2 = 16 << 20;
  if (has_row_groups(p) && p.n * p.k <= kWeightsInL2) return 1;
  return p.k <= 1536 ? 16 : 8;
}

// Dense tiles for few rows (gemm.cuh): a part of K for each of two warpgroups where one would wait
// longer for its WGMMAs than for their operands, two k-blocks to a stage, all as one tile row.
void add_few_rows(std::vector<Tile>& tiles, const Problem& p) {
  constexpr std::array kRows{8, 16, 32, 64, 128};
  constexpr std::array kParts{1, 2, 4};
  constexpr std::array kColumns{16, 24, 32, 48, 64, 96, 128};
  for (const std::int32_t rows : kRows) {
    for (const std::int32_t columns : kColumns) {
      for (const std::int32_t parts : kParts) {
        Tile t{rows, columns, rows == 128 ? 2 : 1, 1, 2, 1, 1, 1};
        t.warpgroups_k = rows <= 64 && columns <= 64 ? 2 : 1;
        t.cluster_k = parts;
        t.stage_blocks = p.k % kScaleBlock == 0 ? 2 : 1;
        t.stages = most_stages(t, p);
        if (is_legal(t, p)) tiles.push_back(t);
      }
    }
  }
}

void add_family(std::vector<Tile>& tiles, const Shape& s, const Problem& p) {
  for (const std::int32_t width : kWidths) {
    if (width < s.narrowest || width > s.widest) continue;
    for (const auto& [cluster_m, cluster_n] : {std::pair(1, 1), std::pair(1, 2), std::pair(2, 1)}) {
      Tile t{s.block_m, width,     s.warpgroups_m, s.warpgroups_n,
             2,         cluster_m, cluster_n,      raster_group(p)};
      t.stages = most_stages(t, p);
      // Beside three warpgroups the producers have 32 registers, and some of this kind spill 4
      // bytes: with labels, and with row-major scales (NVRTC 13.5).
      const bool spills = (has_row_groups(p) || p.sfa_major == ScaleMajor::kRow) &&
                          t.warpgroups_m == 3 && t.cluster_m > 1;
      if (is_legal(t, p) && !spills) tiles.push_back(t);
    }
  }
}

}  // namespace

std::vector<Tile> legal_tiles(const Problem& problem) {
  std::vector<Tile> tiles;
  if (problem.scaling == Scaling::k1d1d) {
    for (const Shape& s : kShapes1d1d) add_family(tiles, s, problem);
  } else {
    if (problem.layout == Layout::kDense) add_few_rows(tiles, problem);
    for (const Shape& s : kShapes) add_family(tiles, s, problem);
  }
  return tiles;
}

std::string describe(const Tile& t) {
  const auto by = [](std::int32_t count) {  // what is mostly 1 is left out
    return count > 1 ? fmt::format("x{}", count) : std::string();
  };
  return fmt::format("{}x{}/{}x{}{}/s{}{}/c{}x{}{}/r{}", t.block_m, t.block_n, t.warpgroups_m,
                     t.warpgroups_n, by(t.warpgroups_k), t.stages, by(t.stage_blocks), t.cluster_m,
                     t.cluster_n, by(t.cluster_k), t.raster_group);
}

Tile parse_tile(std::string_view text, std::string_view field) {
  const auto fail = [&]() -> Error {
    return Error(
        Status::kInvalidArgument,
        fmt::format(
            "{} must look like 128x192/2x1/s4/c2x1/r8 or 8x32/1x1x2/s14x2/c1x1x2/r1 (block_m x "
            "block_n / warpgroups m x n x k / stages x k-blocks / cluster m x n x k / raster; "
            "trailing parts may be left out, and x1 at the end of a part), got \"{}\"",
            field, text));
  };
  std::string_view rest = text;
  const auto number = [&] {
    std::int32_t value = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (error != std::errc{}) throw fail();
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    return value;
  };
  const auto expect = [&](std::string_view token) {
    if (!rest.starts_with(token)) throw fail();
    rest.remove_prefix(token.size());
  };
  Tile t;
  t.block_m = number();
  expect("x");
  t.block_n = number();
  t.warpgroups_m = std::max(1, t.block_m == 256 ? 2 : t.block_m / 64);
  const auto by = [&](std::int32_t& count) {
    if (rest.starts_with('x')) expect("x"), count = number();
  };
  if (!rest.empty()) expect("/"), t.warpgroups_m = number(), expect("x"), t.warpgroups_n = number();
  by(t.warpgroups_k);
  if (!rest.empty()) expect("/s"), t.stages = number();
  by(t.stage_blocks);
  if (!rest.empty()) expect("/c"), t.cluster_m = number(), expect("x"), t.cluster_n = number();
  by(t.cluster_k);
  if (!rest.empty()) expect("/r"), t.raster_group = number();
  if (!rest.empty()) throw fail();
  return t;
}

std::int32_t threads(const Tile& t) { return 128 * (consumers(t) + 1); }

std::int64_t smem_bytes(const Tile& t, const Problem& p) { return layout_of(t, p).total; }

}  // namespace kiln::jit
