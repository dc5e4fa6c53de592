// Which tile serves which M: the tuned tables, and the default choice where they say nothing. What
// a plan launches, `kiln warm` compiles and `kiln explain` shows is all from here.
//
// Pure CPU, no state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "jit/problem.h"
#include "jit/tile.h"
#include "runtime/tuned_table.h"

namespace kiln::runtime {

// Numbers of kiln_plan_description.source.
enum class TileSource : std::int32_t {
  kDefault = 0,
  kCaller = 1,
  kTunedExact = 2,
  kTunedNearest = 3
};

struct PlannedTile {
  jit::TileInterval interval;
  TileSource source = TileSource::kDefault;

  bool operator==(const PlannedTile&) const = default;
};

struct TilePlan {
  // Ascending, without gaps, from 0 to jit::kMaxM; neighbours differ in tile or source; at most
  // jit::kMaxPlanTiles different tiles, every one of which jit::validate() accepts.
  std::vector<PlannedTile> tiles;
  TunedMatch match = TunedMatch::kNone;
  std::string why;  // which tuned entry of which file, or why none
};

// Throws Error{kInvalidArgument} for a problem that is not valid. The intervals of a tuned entry as
// they are; a gap gets the default choice, with fewer tiles of its own where there would be too
// many, or, where it can do with none, the tile of the interval before it. A batch_invariant
// problem has one tile: of the tuned interval that holds jit::middle_m(), else the default choice
// for that.
TilePlan plan_tiles(const jit::Problem& problem, const jit::Machine& machine,
                    const TunedTables& tables);

}  // namespace kiln::runtime
