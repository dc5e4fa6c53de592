#include "tools/tune_space.h"

#include <algorithm>
#include <optional>

namespace kiln::tools {
namespace {

// With the axis value 0: as many stages as fit beside enough slots of D that its stores overlap.
constexpr std::int32_t kMostStages = 16;
std::optional<jit::Tile> with_stages(jit::Tile t, std::int32_t value, const jit::Problem& p) {
  t.stages = value;
  if (value != 0) return jit::is_legal(t, p) ? std::optional(t) : std::nullopt;
  for (t.stages = kMostStages; t.stages >= 2; --t.stages) {
    if (!jit::is_legal(t, p)) continue;
    const device::SmemLayout layout = jit::layout_of(t, p);
    if (t.stages == 2 || layout.d_slots >= std::min(2u, layout.d_chunks)) return t;
  }
  return std::nullopt;
}

std::optional<jit::Tile> with_first_stages(const jit::Tile& t, const TuneAxes& axes,
                                           const jit::Problem& p) {
  for (const std::int32_t value : axes.stages) {
    if (auto tile = with_stages(t, value, p)) return tile;
  }
  return std::nullopt;
}

// Checked before stages are known, so that what cannot be is not asked of the legality rules.
bool within(const TuneConstraints& c, const jit::Tile& t, std::int64_t m) {
  if (t.block_m % (64 * t.warpgroups_m) != 0 || t.block_n % (8 * t.warpgroups_n) != 0) return false;
  const std::int32_t cluster = t.cluster_m * t.cluster_n;
  if (cluster > c.max_cluster || (cluster > 1 && m < c.cluster_from_m)) return false;
  return jit::warpgroup_n(t) >= c.min_warpgroup_n && jit::waves(t) <= c.max_waves;
}

template <typename Visit>
void for_each_shape(const TuneAxes& a, const Visit& visit) {
  jit::Tile t;
  t.raster_group = a.raster_group.front();
  for (const std::int32_t block_m : a.block_m)
    for (const std::int32_t block_n : a.block_n)
      for (const std::int32_t warpgroups_m : a.warpgroups_m)
        for (const std::int32_t warpgroups_n : a.warpgroups_n)
          for (const std::int32_t cluster_m : a.cluster_m)
            for (const std::int32_t cluster_n : a.cluster_n) {
              t.block_m = block_m, t.block_n = block_n;
              t.warpgroups_m = warpgroups_m, t.warpgroups_n = warpgroups_n;
              t.cluster_m = cluster_m, t.cluster_n = cluster_n;
              visit(t);
            }
}

}  // namespace

jit::Tile current_tile(const jit::Problem& problem, std::int64_t m, const jit::Machine& machine) {
  const std::vector<jit::TileInterval> plan = jit::plan_tiles(problem, machine);
  const auto found = std::find_if(plan.begin(), plan.end(),
                                  [m](const jit::TileInterval& i) { return m <= i.m_max; });
  return found->tile;  // a plan reaches to kMaxM
}

std::vector<Candidate> candidates(const TuneConfig& config, const jit::Problem& problem,
                                  std::int64_t m, const jit::Machine& machine) {
  std::vector<Candidate> all;
  for_each_shape(config.axes, [&](const jit::Tile& shape) {
    if (!within(config.constraints, shape, m)) return;
    if (const auto tile = with_first_stages(shape, config.axes, problem))
      all.push_back({*tile, jit::estimate_us(problem, *tile, m, machine)});
  });
  std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return a.estimate_us != b.estimate_us ? a.estimate_us < b.estimate_us : a.tile < b.tile;
  });
  if (!all.empty()) {
    const double limit = all.front().estimate_us * config.constraints.model_percent / 100;
    std::erase_if(all, [&](const Candidate& c) { return c.estimate_us > limit; });
  }
  const jit::Tile current = current_tile(problem, m, machine);
  std::erase_if(all, [&](const Candidate& c) { return c.tile == current; });
  all.insert(all.begin(), {current, jit::estimate_us(problem, current, m, machine)});
  const auto most = static_cast<std::size_t>(config.constraints.max_candidates) + 1;
  if (all.size() > most) all.resize(most);
  return all;
}

std::vector<jit::Tile> refinements(const TuneConfig& config, const jit::Problem& problem,
                                   std::int64_t m, const jit::Tile& tile) {
  const bool one_row =
      !jit::has_row_groups(problem) && m <= std::int64_t{tile.block_m} * tile.cluster_m;
  std::vector<jit::Tile> out;
  for (const std::int32_t stages : config.axes.stages) {
    std::optional<jit::Tile> t = with_stages(tile, stages, problem);
    if (!t) continue;
    if (one_row) {
      out.push_back(*t);
      continue;
    }
    for (const std::int32_t raster_group : config.axes.raster_group) {
      t->raster_group = raster_group;
      out.push_back(*t);
    }
  }
  std::erase(out, tile);
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
