#include "runtime/tile_plan.h"

#include <algorithm>
#include <utility>

namespace kiln::runtime {
namespace {

// Appends, or makes the last interval longer.
void append(std::vector<PlannedTile>& plan, const jit::TileInterval& interval, TileSource source) {
  if (!plan.empty() && plan.back().interval.tile == interval.tile && plan.back().source == source) {
    plan.back().interval.m_max = interval.m_max;
  } else {
    plan.push_back({interval, source});
  }
}

std::vector<PlannedTile> default_tiles(const std::vector<jit::TileInterval>& intervals) {
  std::vector<PlannedTile> plan;
  for (const jit::TileInterval& interval : intervals) append(plan, interval, TileSource::kDefault);
  return plan;
}

// Tuned intervals, and what the default choice says of the M between them; empty when that would be
// too many tiles.
std::vector<PlannedTile> fill_by_default(const std::vector<TunedInterval>& tuned, TileSource source,
                                         const jit::Problem& problem, const jit::Machine& machine) {
  std::vector<jit::TileInterval> given;
  for (const TunedInterval& t : tuned) given.push_back({t.m_min, t.m_max, t.tile});
  std::vector<PlannedTile> plan;
  for (const jit::TileInterval& interval : jit::plan_tiles_around(given, problem, machine)) {
    const bool is_tuned = std::find(given.begin(), given.end(), interval) != given.end();
    append(plan, interval, is_tuned ? source : TileSource::kDefault);
  }
  return plan;
}

// Tuned intervals, each up to the next; the first from 0.
std::vector<PlannedTile> stretch(const std::vector<TunedInterval>& tuned, TileSource source) {
  std::vector<PlannedTile> plan;
  for (std::size_t i = 0; i < tuned.size(); ++i) {
    const std::int64_t from = i == 0 ? 0 : tuned[i].m_min;
    const std::int64_t to = i + 1 < tuned.size() ? tuned[i + 1].m_min - 1 : jit::kMaxM;
    append(plan, {from, to, tuned[i].tile}, source);
  }
  return plan;
}

// The interval that holds `m`, or null.
const TunedInterval* holding(const std::vector<TunedInterval>& tuned, std::int64_t m) {
  const auto found = std::find_if(tuned.begin(), tuned.end(), [m](const TunedInterval& i) {
    return i.m_min <= m && m <= i.m_max;
  });
  return found != tuned.end() ? &*found : nullptr;
}

}  // namespace

TilePlan plan_tiles(const jit::Problem& problem, const jit::Machine& machine,
                    const TunedTables& tables) {
  jit::validate(problem);
  TunedLookup found = tables.find(problem, machine);
  TilePlan plan;
  plan.match = found.match;
  plan.why = std::move(found.why);
  const TileSource source =
      found.match == TunedMatch::kExact ? TileSource::kTunedExact : TileSource::kTunedNearest;
  if (problem.batch_invariant && found.match != TunedMatch::kNone) {
    const TunedInterval* const tuned = holding(found.intervals, jit::middle_m(problem));
    if (tuned != nullptr) {
      plan.tiles = {{{0, jit::kMaxM, tuned->tile}, source}};
      return plan;
    }
  }
  if (problem.batch_invariant || found.match == TunedMatch::kNone) {
    plan.tiles = default_tiles(jit::plan_tiles(problem, machine));
    return plan;
  }
  plan.tiles = fill_by_default(found.intervals, source, problem, machine);
  if (plan.tiles.empty()) plan.tiles = stretch(found.intervals, source);
  return plan;
}

}  // namespace kiln::runtime
