// The tuner's search space: which tiles are candidates for a problem at some M, and in which order.
//
// Pure functions of their arguments, and deterministic. M is what a plan counts
// (runtime/tile_plan.h).
#pragma once

#include <cstdint>
#include <vector>

#include "jit/problem.h"
#include "jit/tile.h"
#include "runtime/tuned_table.h"
#include "tools/tune_config.h"

namespace kiln::tools {

// What a tile is chosen for: the GPU, and the tables that an engine has now.
struct TuneTarget {
  jit::Machine machine;
  runtime::TunedTables tables;
};

struct Candidate {
  jit::Tile tile;
  double estimate_us = 0;

  bool operator==(const Candidate&) const = default;
};

// What a plan launches at `m` now.
jit::Tile current_tile(const jit::Problem& problem, std::int64_t m, const TuneTarget& target);

// What there is to beat, each once: the current tile, what a plan would launch without tables, and
// the default choice for this very M.
std::vector<jit::Tile> standing_choices(const jit::Problem& problem, std::int64_t m,
                                        const TuneTarget& target);

// The standing choices, whether or not the axes hold them, and then the first max_candidates of the
// legal tiles within the constraints: the most promising first by jit::estimate_us (then by the
// tile), with the first values of stages and raster_group that are legal.
std::vector<Candidate> candidates(const TuneConfig& config, const jit::Problem& problem,
                                  std::int64_t m, const TuneTarget& target);

// The same tile with every other value of stages (for few rows also with six, four and three
// eighths of those that fit), and with every other of raster_group. Where the order of work cannot
// differ, as there is one row of tiles, the latter are left out.
std::vector<jit::Tile> refinements(const TuneConfig& config, const jit::Problem& problem,
                                   std::int64_t m, const jit::Tile& tile);

// Those of the two best of some tiles, which come the best first; of tiles for few rows, of the
// eight best. With few rows it is what is on its way that counts: as many stages as fit are up to
// 5 % slower than fewer (H200, M = 1, 24576x1536 in tiles of 8x64: 13.0 us with 6 stages of two
// k-blocks, 12.7 with 4).
std::vector<jit::Tile> refinements_of_best(const TuneConfig& config, const jit::Problem& problem,
                                           std::int64_t m, const std::vector<jit::Tile>& tiles);

// An interval of M and the M that is measured for it.
struct TuneInterval {
  std::int64_t m_min = 0;
  std::int64_t m_max = 0;
  std::int64_t m = 0;

  bool operator==(const TuneInterval&) const = default;
};

// The intervals of a problem, ascending; M and `listed` are what a plan counts (grouped_contiguous:
// rows of all groups, grouped_masked: expected rows of one). The largest listed M inside an
// interval is measured, else its last one (1 when it begins at 0; twice its first one when it has
// no end). Where max_rows forbids that, the largest M that it allows is; intervals beyond it are
// one with their predecessor. With cover `all` they reach from 0 to kMaxM without gaps.
std::vector<TuneInterval> tune_intervals(const TuneIntervals& rules, const jit::Problem& problem,
                                         const std::vector<std::int64_t>& listed);

}  // namespace kiln::tools
