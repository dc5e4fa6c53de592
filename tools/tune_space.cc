#include "tools/tune_space.h"

#include <algorithm>
#include <optional>

#include "runtime/tile_plan.h"

namespace kiln::tools {
namespace {

std::optional<jit::Tile> with_stages(jit::Tile t, std::int32_t value, const jit::Problem& p) {
  t.stages = value != 0 ? value : jit::most_stages(t, p);
  return jit::is_legal(t, p) ? std::optional(t) : std::nullopt;
}

std::optional<jit::Tile> with_first_stages(const jit::Tile& t, const TuneAxes& axes,
                                           const jit::Problem& p) {
  for (const std::int32_t value : axes.stages) {
    if (auto tile = with_stages(t, value, p)) return tile;
  }
  return std::nullopt;
}

// Checked before stages are known, so that what cannot be is not asked of the legality rules.
bool within(const TuneConstraints& c, const jit::Tile& t, const jit::Problem& p, std::int64_t m) {
  const bool is_low = t.block_m < 64 && t.warpgroups_m == 1;
  if (!is_low && t.block_m % (64 * t.warpgroups_m) != 0) return false;
  if (t.block_n % (8 * t.warpgroups_n) != 0) return false;
  if (t.warpgroups_m * t.warpgroups_n * t.warpgroups_k > 4) return false;
  constexpr std::int64_t kFewRows = 2;  // tile rows: for more, other tiles are made
  if (jit::is_for_few_rows(t) && (p.scaling == jit::Scaling::k1d1d || m > kFewRows * t.block_m))
    return false;
  const std::int32_t cluster = t.cluster_m * t.cluster_n;
  const bool masked = p.layout == jit::Layout::kGroupedMasked;
  const std::int64_t rows = masked ? m * p.groups : m;
  if (cluster > c.max_cluster || (cluster > 1 && rows < c.cluster_from_m)) return false;
  return jit::warpgroup_n(t) >= c.min_warpgroup_n && jit::waves(t) <= c.max_waves;
}

template <typename Visit>
void for_each_split(const TuneAxes& a, jit::Tile t, const Visit& visit) {
  for (const std::int32_t warpgroups_k : a.warpgroups_k)
    for (const std::int32_t cluster_k : a.cluster_k)
      for (const std::int32_t stage_blocks : a.stage_blocks) {
        t.warpgroups_k = warpgroups_k, t.cluster_k = cluster_k, t.stage_blocks = stage_blocks;
        visit(t);
      }
}

template <typename Visit>
void for_each_shape(const TuneAxes& a, const Visit& visit) {
  jit::Tile t;
  for (const std::int32_t block_m : a.block_m)
    for (const std::int32_t block_n : a.block_n)
      for (const std::int32_t warpgroups_m : a.warpgroups_m)
        for (const std::int32_t warpgroups_n : a.warpgroups_n)
          for (const std::int32_t cluster_m : a.cluster_m)
            for (const std::int32_t cluster_n : a.cluster_n) {
              t.block_m = block_m, t.block_n = block_n;
              t.warpgroups_m = warpgroups_m, t.warpgroups_n = warpgroups_n;
              t.cluster_m = cluster_m, t.cluster_n = cluster_n;
              for_each_split(a, t, visit);
            }
}

}  // namespace

jit::Tile current_tile(const jit::Problem& problem, std::int64_t m, const TuneTarget& target) {
  const runtime::TilePlan plan = runtime::plan_tiles(problem, target.machine, target.tables);
  const auto found =
      std::find_if(plan.tiles.begin(), plan.tiles.end(),
                   [m](const runtime::PlannedTile& p) { return m <= p.interval.m_max; });
  return found->interval.tile;  // a plan reaches to kMaxM
}

std::vector<jit::Tile> standing_choices(const jit::Problem& problem, std::int64_t m,
                                        const TuneTarget& target) {
  std::vector<jit::Tile> out;
  for (const jit::Tile& tile :
       {current_tile(problem, m, target), current_tile(problem, m, {target.machine, {}}),
        jit::choose_tile(problem, m, target.machine)}) {
    if (std::find(out.begin(), out.end(), tile) == out.end()) out.push_back(tile);
  }
  return out;
}

std::vector<Candidate> candidates(const TuneConfig& config, const jit::Problem& problem,
                                  std::int64_t m, const TuneTarget& target) {
  const std::vector<jit::Tile> standing = standing_choices(problem, m, target);
  const std::int32_t first = config.axes.raster_group.front();
  const std::int32_t raster_group =
      first != 0 ? first : jit::choose_tile(problem, m, target.machine).raster_group;
  std::vector<Candidate> all;
  const auto add = [&](const jit::Tile& tile) {
    all.push_back({tile, jit::estimate_us(problem, tile, m, target.machine)});
  };
  for_each_shape(config.axes, [&](jit::Tile shape) {
    if (!within(config.constraints, shape, problem, m)) return;
    shape.raster_group = jit::is_for_few_rows(shape) ? 1 : raster_group;
    if (const auto tile = with_first_stages(shape, config.axes, problem)) add(*tile);
  });
  std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return a.estimate_us != b.estimate_us ? a.estimate_us < b.estimate_us : a.tile < b.tile;
  });
  if (!all.empty()) {
    const double limit = all.front().estimate_us * config.constraints.model_percent / 100;
    std::erase_if(all, [&](const Candidate& c) { return c.estimate_us > limit; });
  }
  std::erase_if(all, [&](const Candidate& c) {
    return std::find(standing.begin(), standing.end(), c.tile) != standing.end();
  });
  const auto most = static_cast<std::size_t>(config.constraints.max_candidates);
  if (all.size() > most) all.resize(most);
  for (const jit::Tile& tile : standing) add(tile);
  std::rotate(all.begin(), all.end() - static_cast<std::ptrdiff_t>(standing.size()), all.end());
  return all;
}

std::vector<jit::Tile> refinements(const TuneConfig& config, const jit::Problem& problem,
                                   std::int64_t m, const jit::Tile& tile) {
  const bool one_row =
      !jit::has_row_groups(problem) && m <= std::int64_t{tile.block_m} * tile.cluster_m;
  std::vector<jit::Tile> out;
  std::vector<std::int32_t> counts = config.axes.stages;
  if (jit::is_for_few_rows(tile)) {
    const std::int32_t parts = jit::most_stages(tile, problem) / tile.warpgroups_k;
    for (const std::int32_t eighths : {6, 4, 3})
      counts.push_back(std::max(1, parts * eighths / 8) * tile.warpgroups_k);
  }
  for (const std::int32_t stages : counts) {
    if (const auto t = with_stages(tile, stages, problem)) out.push_back(*t);
  }
  for (const std::int32_t raster_group : config.axes.raster_group) {
    if (one_row || raster_group == 0) continue;
    out.push_back(tile);
    out.back().raster_group = raster_group;
  }
  std::erase(out, tile);
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

std::vector<jit::Tile> refinements_of_best(const TuneConfig& config, const jit::Problem& problem,
                                           std::int64_t m, const std::vector<jit::Tile>& tiles) {
  constexpr std::size_t kRefined = 2, kRefinedForFewRows = 8;
  std::vector<jit::Tile> out;
  for (std::size_t rank = 0; rank < std::min(tiles.size(), kRefinedForFewRows); ++rank) {
    if (rank >= kRefined && !jit::is_for_few_rows(tiles[rank])) continue;
    const auto others = refinements(config, problem, m, tiles[rank]);
    out.insert(out.end(), others.begin(), others.end());
  }
  return out;
}

std::vector<TuneInterval> tune_intervals(const TuneIntervals& rules, const jit::Problem& problem,
                                         const std::vector<std::int64_t>& listed) {
  const bool masked = problem.layout == jit::Layout::kGroupedMasked;  // M is of one group there
  const std::int64_t groups = masked ? problem.groups : 1;
  const std::int64_t most = std::max<std::int64_t>(1, rules.max_rows / groups);
  std::vector<std::int64_t> upper = rules.upper;
  upper.push_back(jit::kMaxM);
  std::vector<TuneInterval> out;
  std::int64_t first = 0;
  for (const std::int64_t last : upper) {
    std::int64_t m = -1;
    for (const std::int64_t value : listed) {
      if (value >= first && value <= last) m = std::max(m, value);
    }
    const bool wanted = m >= 0 || rules.cover == TuneCover::kAll;
    // The last interval has no end to measure at: twice its beginning stands for it.
    if (m < 0) m = first == 0 ? std::min<std::int64_t>(1, last) : std::min(last, 2 * first);
    m = std::clamp<std::int64_t>(m, 1, most);
    const bool beyond = !out.empty() && out.back().m_max == first - 1 && m <= out.back().m_max;
    if (beyond) {
      out.back().m_max = last;
    } else if (wanted && m >= first) {  // else max_rows is below all of it
      out.push_back({first, last, m});
    }
    first = last + 1;
  }
  return out;
}

}  // namespace kiln::tools
