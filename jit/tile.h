// Tile: how a problem is computed. Legal tiles, the default choice, and the plan of tiles by M.
//
// Pure CPU functions of their arguments: no GPU, no environment, no state. Shared-memory sizes come
// from templates/smem_layout.cuh, the definition that the kernel itself compiles with.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "jit/problem.h"
#include "templates/smem_layout.cuh"

namespace kiln::jit {

// A CTA computes block_m x block_n of D with warpgroups_m x warpgroups_n consumer warpgroups (each
// block_m/warpgroups_m rows by block_n/warpgroups_n columns, rows in waves of 64) and one producer
// warpgroup, through a ring of stages, each stage_blocks k-blocks of 128. For few rows block_m may
// be 8, 16 or 32, and K can be split: warpgroups_k times so many warpgroups take stages in turn,
// and cluster_k CTAs of a cluster take a range of K each.
struct Tile {
  std::int32_t block_m = 128;
  std::int32_t block_n = 128;
  std::int32_t warpgroups_m = 2;
  std::int32_t warpgroups_n = 1;
  std::int32_t stages = 4;
  std::int32_t cluster_m = 1;     // CTAs of a cluster along M: they share B tiles by multicast
  std::int32_t cluster_n = 1;     // CTAs of a cluster along N: they share A tiles by multicast
  std::int32_t raster_group = 8;  // M tiles (in clusters) per band of the L2-friendly order
  std::int32_t warpgroups_k = 1;  // parts of K in a CTA, each with warpgroups of its own
  std::int32_t cluster_k = 1;     // parts of K, each with a CTA of the cluster
  std::int32_t stage_blocks = 1;  // k-blocks of a stage

  auto operator<=>(const Tile&) const = default;
};

inline std::int32_t cluster_size(const Tile& t) { return t.cluster_m * t.cluster_n * t.cluster_k; }

// Made for few rows: it splits K, or has several k-blocks to a stage, or less than 64 rows.
inline bool is_for_few_rows(const Tile& t) {
  return t.block_m < 64 || t.warpgroups_k > 1 || t.cluster_k > 1 || t.stage_blocks > 1;
}

// Stages that a CTA fills for one tile, under 1d2d.
inline std::int64_t stages_of_tile(const Tile& t, const Problem& p) {
  return ceil_div(scale_blocks(p.k), std::int64_t{t.cluster_k} * t.stage_blocks);
}

// Of one consumer warpgroup: its columns, and its waves of 64 rows.
inline std::int32_t warpgroup_n(const Tile& t) { return t.block_n / t.warpgroups_n; }
// In which a warpgroup takes its columns (templates/smem_layout.cuh).
inline std::int32_t passes(const Tile& t, const Problem& p) {
  return static_cast<std::int32_t>(
      device::passes(static_cast<std::uint32_t>(warpgroup_n(t)), p.scaling == Scaling::k1d1d));
}
inline std::int32_t waves(const Tile& t) {
  return std::max(1, t.block_m / t.warpgroups_m / static_cast<std::int32_t>(device::kWaveRows));
}

// GPU facts that the choice depends on. They are inputs, so a machine without a GPU can plan.
struct Machine {
  std::int32_t num_sms = 132;
};

// Throws Error{kInvalidArgument}: which rule the tile breaks for this problem, with values.
void validate(const Tile& tile, const Problem& problem);
bool is_legal(const Tile& tile, const Problem& problem);

// As many stages as fit beside enough staging for D that its stores overlap, 2 to 16; 2 when
// nothing fits; 4 for tall tiles that 4 divide better than 5 or 6; for few rows up to 32, but not
// more than a tile fills. `tile`'s own stages do not matter.
std::int32_t most_stages(Tile tile, const Problem& problem);

// Every legal tile on the default menu, in a fixed order.
std::vector<Tile> legal_tiles(const Problem& problem);

// The default choice for one M >= 0, from the cost model. Deterministic.
Tile choose_tile(const Problem& problem, std::int64_t m, const Machine& machine);

// Estimated kernel time in microseconds: the model behind choose_tile, for `kiln explain`.
double estimate_us(const Problem& problem, const Tile& tile, std::int64_t m,
                   const Machine& machine);

// A tile and the closed interval of M on which a plan uses it.
struct TileInterval {
  std::int64_t m_min = 0;
  std::int64_t m_max = 0;
  Tile tile;

  auto operator<=>(const TileInterval&) const = default;
};

// The most tiles that a plan has over all M: so many kernels are compiled, kept and loaded.
inline constexpr std::size_t kMaxPlanTiles = 8;

// The plan: intervals ascending, without gaps, from 0 to kMaxM; neighbours differ in their tile,
// and there are at most kMaxPlanTiles different ones, those with which the estimates lose least.
// The kernels that any M can need are exactly these, so warming them is complete. A batch_invariant
// problem has one interval, with the choice for middle_m().
std::vector<TileInterval> plan_tiles(const Problem& problem, const Machine& machine);

// The same plan with some of its intervals given: ascending, without overlap, at most kMaxPlanTiles
// different tiles, all legal. They stay as they are; where M is in none of them the default choice
// serves, and gives up tiles of its own first. Neighbours may have the same tile where one of them
// is given. Empty when no few enough tiles serve every M.
std::vector<TileInterval> plan_tiles_around(const std::vector<TileInterval>& given,
                                            const Problem& problem, const Machine& machine);

// The M that decides where one tile serves every M: between decoding, where most tiles are alike,
// and large batches, whose tiles waste the most when there are few rows.
std::int64_t middle_m(const Problem& problem);

// "128x192/2x1/s4/c2x1/r8" or "8x32/1x1x2/s14x2/c1x1x2/r1" and back: block_m x block_n / warpgroups
// m x n x k / stages x stage_blocks / cluster m x n x k / raster.
// parse_tile accepts the trailing parts left out (defaults for them) and throws
// Error{kInvalidArgument} on anything else; it does not check legality.
std::string describe(const Tile& tile);
Tile parse_tile(std::string_view text, std::string_view field);

// Where everything lies in a CTA's shared memory.
device::SmemLayout layout_of(const Tile& tile, const Problem& problem);

// Threads and dynamic shared memory of a launch.
std::int32_t threads(const Tile& tile);
std::int64_t smem_bytes(const Tile& tile, const Problem& problem);

}  // namespace kiln::jit
