// The cost model, the choice of a tile for one M, and the plan over all M.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "jit/tile.h"
#include "templates/schedule.cuh"

namespace kiln::jit {
namespace {

// Groups of columns that share a column scale wherever the tile begins.
std::int32_t scale_chunks(const Tile& t) {
  return warpgroup_n(t) /
         std::gcd(std::gcd(t.block_n, warpgroup_n(t)), static_cast<std::int32_t>(kScaleBlock));
}

// ---- the cost model ----
//
// Microseconds of one launch, from what limits a k-block: the tensor cores, one warpgroup's chain
// of dependent steps, filling shared memory, and L2. It ranks tiles; single times are within about
// 10 %. The constants were fitted to 3,600 measured launches on an H200 (CUDA 13.0, 50 tiles, 10
// (N, K), M from 1 to 8192, L2 flushed): the tile it picks is 6 % slower than the best of them on
// average.

constexpr double kClockGhz = 1.755;
constexpr double kFixedUs = 2.65;  // launch, first load, drain
constexpr double kHbmBytesPerUs = 3.26e6;
constexpr double kTensorSlowdown = 1.21;    // of the tensor cores' nominal rate
constexpr double kFillBytesPerCycle = 59;   // into one SM's shared memory
constexpr double kL2BytesPerCycle = 5425;   // out of L2, all SMs together
constexpr double kTileCycles = 425;         // between tiles, besides the stores
constexpr double kStoreBytesPerCycle = 94;  // of D, per SM
constexpr double kClusterSlowdown = 1.01;   // waiting for the partner

// Few rows of A lie in few L2 slices, which serve all CTAs: cycles per k-block and CTA beyond the
// first.
constexpr double kHotLineCycles = 2.16;
constexpr double kHotLineFreeCtas = 22;
constexpr double kHotLineExponent = 0.39;  // of M

// The larger of several limits, smoothed: near a tie they add to each other.
template <std::size_t kCount>
double combine(const std::array<double, kCount>& limits, double sharpness) {
  double sum = 0;
  for (const double limit : limits) sum += std::pow(limit, sharpness);
  return std::pow(sum, 1 / sharpness);
}

// 1d1d scales each accumulator twice and loads a scale for every column: of the tensor cores' time,
// less where several waves share the loads, least with 96 columns to a warpgroup and warpgroups
// side by side; and cycles per column of a wave. From 8 tiles at 4096x7168x8576 in 4 groups on an
// H200, met within 3 %.
// Where the tensor cores multiply the scales (gemm_scale_terms.cuh), several waves take 0.934 to
// 0.963 of that (six of those tiles), and one wave of 128 columns is as good: 4096x7168x8192 432 us
// with 128x128, 457 with 128x192, 464 with 128x112.
double column_scale_slowdown(const Tile& t, std::int32_t n, double pieces, bool scale_terms) {
  constexpr double kOneWave = 1.54;
  if (pieces == 1) return scale_terms ? std::min(kOneWave, 1.34 + 0.0056 * (128 - n)) : kOneWave;
  const double slowdown = 1.40 + 0.0025 * std::abs(n - 96) + 0.04 * (t.warpgroups_m - 1);
  return scale_terms ? 0.957 * slowdown : slowdown;
}
constexpr double kColumnScaleClusterGain = 0.985;  // of sharing B, there
constexpr double kColumnScaleCycles = 0.31;

// What a launch computes, as far as the host knows: `groups` products of rows x columns x k_blocks.
struct Extents {
  double groups, rows, columns, k_blocks;
};

Extents extents_of(const Problem& p, std::int64_t m) {
  const double rows = static_cast<double>(std::max<std::int64_t>(m, 1));
  const double groups =
      p.layout == Layout::kGroupedContiguous ? std::min<double>(p.groups, rows) : p.groups;
  return {groups, p.layout == Layout::kGroupedContiguous ? rows / groups : rows,
          static_cast<double>(p.n), static_cast<double>(scale_blocks(p.k))};
}

// Tile rows of one group. The sizes of groups differ: an average over 0.8 to 1.3 of the mean; over
// 0.6 to 1.3 of what is expected of masked groups, where callers say the mean or for safety more. A
// partly valid tile counts in full, as skipping its empty waves saves a quarter of its time at
// most. (H200, 32 masked groups, 192 expected, 4 (N, K), six draws: 192-row tiles, which three
// groups of eight need two of, take 8 % longer than 256 rows.) A cluster of two along M takes lone
// tile rows (schedule.cuh) in pairs of columns.
double tile_rows(const Problem& p, const Tile& t, double rows) {
  const double height = t.block_m * t.cluster_m;
  const auto lone = has_row_groups(p) ? device::lone_rows(static_cast<device::u32>(t.block_m),
                                                          static_cast<device::u32>(t.cluster_m))
                                      : 0;
  const double unit = lone != 0 ? lone : height;
  const auto of_rows = [&](double r) { return std::ceil(r / unit) * unit / height; };
  if (!has_row_groups(p)) return of_rows(rows);
  const int sizes = p.layout == Layout::kGroupedMasked ? 8 : 6;
  double sum = 0;
  for (int i = 0; i < sizes; ++i) sum += of_rows(std::max(1.0, std::round(rows * (1.3 - 0.1 * i))));
  return sum / sizes;
}

// Rows of A and B that a CTA loads for a k-block, while its peers in the cluster load the others.
double rows_loaded(const Tile& t) {
  return static_cast<double>(t.block_m) / t.cluster_n +
         static_cast<double>(t.block_n) / t.cluster_m;
}

// Cycles that one k-block of a tile takes in steady state while `active` SMs work. `rows` of A are
// there in all.
double cycles_per_k_block(const Problem& p, const Tile& t, double rows, double active) {
  const bool column_scales = p.scaling == Scaling::k1d1d;
  const std::int32_t count = passes(t, p), columns = warpgroup_n(t) / count;
  const double n = columns, pieces = jit::waves(t) * count;  // of WGMMAs, and in a k-block
  const double ragged =
      column_scales ? 0 : scale_chunks(t) / count - 1;  // column scales beyond the first
  const double mma = 4 * std::max(n / 2, 16 + n / 4);   // four WGMMAs of one piece
  const double slowdown =
      kTensorSlowdown *
      (column_scales ? column_scale_slowdown(t, columns, pieces, layout_of(t, p).scale_terms) : 1);
  const double tensor = (mma * slowdown + 5.6 * ragged) * pieces * t.warpgroups_m * t.warpgroups_n;
  const double promote = (0.62 + (column_scales ? kColumnScaleCycles : 0)) * n;
  const double chain =
      (mma + promote + 93 + 3.7 * ragged) * pieces + 61;  // issue, wait, promote; then the barrier
  const double fill = (t.block_m + t.block_n) * 128 / kFillBytesPerCycle;
  const double l2 = rows_loaded(t) * 128 * active / kL2BytesPerCycle;
  const double hot =
      kHotLineCycles * std::max(0.0, active - kHotLineFreeCtas) / std::pow(rows, kHotLineExponent);
  return combine(std::array{tensor, chain, fill, l2}, 9.2) + hot;
}

double cluster_factor(const Problem& p, const Tile& t) {
  if (p.scaling == Scaling::k1d1d && t.cluster_m > 1) return kColumnScaleClusterGain;
  return t.cluster_m * t.cluster_n > 1 ? kClusterSlowdown : 1.0;
}

// Groups of rows cost tiles of two warpgroups with one wave each more than others: H200, 8 groups
// of 4096 rows and 6 of 1024, N = 4096 to 7168: 192x128 beats 128x192 by 4 % and 128x128 by 7 %,
// which are abreast when dense. Of contiguous groups (4 and 8, 4 (N, K), 13 tiles) 256x128 in pairs
// side by side and 128x256 in pairs one above the other are the best, 0.6 and 0.7 % above the best
// of all on average; 128x192 and 192x128 in pairs are 2.6 and 2.8 % above it, 256x128 alone 2.4,
// which reads half as much again out of L2.
double row_group_factor(const Problem& p, const Tile& t) {
  if (!has_row_groups(p)) return 1.0;
  const bool contiguous = p.layout == Layout::kGroupedContiguous;
  double factor = 1.0;
  if (waves(t) == 1 && t.warpgroups_m <= 2) factor = 1.05;
  if (waves(t) == 1 && t.warpgroups_m > 2 && contiguous) factor = 1.02;
  if (!contiguous) return factor;
  constexpr double kOfAPair = 256.0 / (256 * 128);  // rows loaded for each element of D
  return factor * (0.95 + 0.05 * (rows_loaded(t) / (t.block_m * t.block_n) / kOfAPair));
}

// How often B is read from memory. A group's second tile row finds little of it in L2, where there
// are many groups; with many tile rows in a group, B is little. H200, 32 masked groups of about 205
// rows, 6144x7168, eight draws: 128x256 takes 728 us, 256x128 525.
double reads_of_b(const Problem& p, double tile_rows) {
  return has_row_groups(p) ? std::min(2.0, tile_rows) : 1.0;
}

// How much longer than its bytes take a launch is that does little but read weights: masked groups
// of one low tile row. H200, 6 and 32 groups of 20 rows, 4 (N, K), 36 tiles: SMs with one tile more
// than others are alone at the end (128 columns of 6144, 2.2 rounds, take 14 % longer than 96, 2.9
// rounds); tiles of 160 to 256 columns take 3 to 9 % longer than narrower ones, those with many
// column scales (80, 112, 160) 4 to 10 %.
double streaming_factor(const Problem& p, const Tile& t, const Extents& e, double balance) {
  if (p.layout != Layout::kGroupedMasked || e.rows > device::kWaveRows) return 1.0;
  return (1 + 0.4 * (1 / balance - 1)) * (t.block_n > 128 ? 1.08 : 1.0) *
         (scale_chunks(t) > 3 ? 1.08 : 1.0);
}

// D, and C when that is loaded: then chunks that find no free slot wait for C, and chunks narrower
// than 128 bytes leave slowly (H200, 32768x4096x512: 580 us for 192x160, 309 for 128x128).
double store_cycles(const Problem& p, const Tile& t) {
  const double elements = static_cast<double>(t.block_m) * t.block_n;
  const double cycles = elements * static_cast<double>(element_bytes(p.out)) *
                        (p.accumulate ? 2 : 1) / kStoreBytesPerCycle;
  if (!p.accumulate || reduces(p)) return cycles;
  const device::SmemLayout layout = layout_of(t, p);
  const double waiting = 1 - static_cast<double>(layout.d_slots) / layout.d_chunks;
  return cycles * (layout.d_chunk_bytes < 128 ? 8 : 1 + waiting);
}

}  // namespace

namespace {

// Tiles for few rows: their start, the k-blocks of one tile after the other, and what ends a tile.
// The constants were fitted to 1,200 launches on an H200 (CUDA 13.0, M from 1 to 128, 7 (N, K), L2
// flushed), and only together mean something: the menu's tile that this picks is 2 % slower than
// the best tile known on average, at most 5 %.
double few_rows_us(const Problem& p, const Tile& t, const Extents& e, const Machine& machine) {
  constexpr double kStartUs = 2.68, kBytesPerUs = 3.76e6, kFillBytes = 109, kAllFillBytes = 8160;
  constexpr double kPromoteCycles = 3.5, kPartsCycles = 2100, kGatherCycles = 2150;
  constexpr double kGatherBytes = 10.4;
  // A cluster lies within one GPC: an H200 has room for 30 clusters of 4 and 15 of 8 on its 132 SMs
  // (cudaOccupancyMaxActiveClusters).
  const std::int32_t sms = t.cluster_k >= 4 ? machine.num_sms * 10 / 11 : machine.num_sms;
  const double units = std::max(1, sms / t.cluster_k);
  const double tiles = std::ceil(e.rows / t.block_m) * std::ceil(e.columns / t.block_n);
  const double rounds = std::ceil(tiles / units - 1e-9);
  const double active = std::min(tiles, units) * t.cluster_k;

  const double n = warpgroup_n(t), bytes = (t.block_m + t.block_n) * 128.0;
  const double mma = 4 * std::max(n / 2, 16 + n / 4);
  const double k_block = std::max({mma * kTensorSlowdown * t.warpgroups_m * t.warpgroups_n,
                                   (mma + kPromoteCycles * n) / t.warpgroups_k, bytes / kFillBytes,
                                   bytes * active / kAllFillBytes});
  const double gathered = (1 - 1.0 / t.cluster_k) * t.block_m * t.block_n * 4;
  const double end = (t.cluster_k > 1 ? kGatherCycles + gathered / kGatherBytes : 0) +
                     (t.warpgroups_k > 1 ? kPartsCycles : 0) + store_cycles(p, t);
  const double k_blocks = static_cast<double>(stages_of_tile(t, p) * t.stage_blocks);
  const double tiles_us = rounds * (k_blocks * k_block + end) / (kClockGhz * 1e3);
  const double memory = (e.rows + e.columns) * e.k_blocks * kScaleBlock +
                        e.rows * e.columns * static_cast<double>(element_bytes(p.out));
  return kStartUs + combine(std::array{tiles_us, memory / kBytesPerUs}, 3.0);
}

}  // namespace

double estimate_us(const Problem& p, const Tile& t, std::int64_t m, const Machine& machine) {
  const Extents e = extents_of(p, m);
  if (is_for_few_rows(t) && p.layout == Layout::kDense) return few_rows_us(p, t, e, machine);
  const double cluster = t.cluster_m * t.cluster_n,
               out = static_cast<double>(element_bytes(p.out)) * (p.accumulate ? 2 : 1);
  const double units = std::max(1.0, std::floor(machine.num_sms / cluster));
  const double rows_of_tiles = tile_rows(p, t, e.rows);
  const double tiles = e.groups * rows_of_tiles * std::ceil(e.columns / (t.block_n * t.cluster_n));
  const double rounds = std::ceil(tiles / units - 1e-9);
  const double all_rows = e.groups * e.rows, k = e.k_blocks * kScaleBlock;
  const double cycles =
      e.k_blocks * cycles_per_k_block(p, t, p.scaling == Scaling::k1d1d ? e.rows : all_rows,
                                      std::min(tiles, units) * cluster) +
      kTileCycles + store_cycles(p, t);
  const double compute_us =
      rounds * cycles / (kClockGhz * 1e3) * cluster_factor(p, t) * row_group_factor(p, t);
  const double bytes = (all_rows + e.groups * e.columns * reads_of_b(p, rows_of_tiles)) * k +
                       all_rows * e.columns * out;
  const double memory_us =
      bytes / kHbmBytesPerUs * streaming_factor(p, t, e, tiles / (rounds * units));
  return kFixedUs + combine(std::array{compute_us, memory_us}, 3.0);
}

namespace {

// Tiles for few rows as one tile row. Below kClustersFromM partners in a cluster wait for each
// other more than they share; B is a group's own.
bool may_choose(const Tile& t, const Extents& e) {
  if (is_for_few_rows(t) && e.rows > t.block_m) return false;
  constexpr double kClustersFromM = 1024;
  if (e.groups * e.rows < kClustersFromM && t.cluster_n > 1) return false;
  return e.rows >= kClustersFromM || t.cluster_m == 1;
}

}  // namespace

Tile choose_tile(const Problem& problem, std::int64_t m, const Machine& machine) {
  std::optional<Tile> best;
  double best_us = 0;
  const Extents e = extents_of(problem, m);
  for (const Tile& tile : legal_tiles(problem)) {
    if (!may_choose(tile, e)) continue;
    const double us = estimate_us(problem, tile, m, machine);
    if (!best || us < best_us) {
      best = tile;
      best_us = us;
    }
  }
  // Groups of one tile row each have no B to share: one after the other, all CTAs share A. H200, 32
  // masked groups of about 192 rows, 4096x2048: 121.8 us so, 123.8 in bands of 4, 124.5 of 8.
  if (problem.layout == Layout::kGroupedMasked && tile_rows(problem, *best, e.rows) < 1.5)
    best->raster_group = 1;
  return *best;  // every menu has tiles of 64 columns
}

namespace {

// An interval of the plan before its tiles are limited in number.
struct Stretch {
  std::int64_t m_min = 0, m_max = 0;
  std::int64_t decisive_m = 0;
  Tile tile;
  bool given = false;  // keeps its tile
};

// The M that decides for all from `first` to `last`: the largest, as it has the most tiles; at the
// very smallest it is the single row that is slowest. Where M is a mean over groups there is no
// largest. What is expected of masked groups tends to be their mean, and half of them have more: of
// 192, for which a tile as high takes 16 % longer than 256x128 (32 groups, 6144x7168).
std::int64_t decisive_m(const Problem& p, std::int64_t first, std::int64_t last) {
  // Beyond it the choice no longer changes, or there is nothing to choose by.
  constexpr std::int64_t kLargestModelled = 32768;
  if (last <= 8) return 1;
  std::int64_t typical = last;
  if (p.layout == Layout::kGroupedContiguous) typical = first + (last - first) / 2;
  if (p.layout == Layout::kGroupedMasked) typical = first + (last - first) * 3 / 4;
  return std::min(typical, kLargestModelled);
}

std::vector<Stretch> best_stretches(const Problem& problem, const Machine& machine) {
  constexpr std::array<std::int64_t, 19> kUpper{8,    16,   32,   64,    128,  192,  256,
                                                384,  512,  768,  1024,  1536, 2048, 3072,
                                                4096, 6144, 8192, 16384, kMaxM};
  std::vector<Stretch> stretches;
  std::int64_t first = 0;
  for (const std::int64_t last : kUpper) {
    const std::int64_t m = decisive_m(problem, first, last);
    stretches.push_back({first, last, m, choose_tile(problem, m, machine), false});
    first = last + 1;
  }
  return stretches;
}

// What a stretch takes when `dropped` goes: the best of the other tiles, and how many times longer
// that takes by the model; infinity when it can do with no other. The model knows nothing of raster
// groups: of tiles that differ in theirs alone, the nearest.
double replace(Stretch& stretch, const Tile& dropped, const std::set<Tile>& tiles,
               const Problem& problem, const Machine& machine) {
  const Extents e = extents_of(problem, stretch.decisive_m);
  const auto worth = [&](const Tile& tile) {
    return std::pair(estimate_us(problem, tile, stretch.decisive_m, machine),
                     std::abs(tile.raster_group - dropped.raster_group));
  };
  auto best = std::pair(std::numeric_limits<double>::infinity(), 0);
  for (const Tile& other : tiles) {
    if (other == dropped || !may_choose(other, e) || worth(other) >= best) continue;
    best = worth(other);
    stretch.tile = other;
  }
  return best.first / worth(dropped).first;
}

// One tile fewer: the one that is missed least, at the stretch that misses it most, goes; its
// stretches take the best of the others. False when some stretch can do with no other.
bool drop_one(std::vector<Stretch>& stretches, const std::set<Tile>& tiles, const Problem& problem,
              const Machine& machine) {
  std::set<Tile> kept;
  for (const Stretch& stretch : stretches) {
    if (stretch.given) kept.insert(stretch.tile);
  }
  std::optional<std::vector<Stretch>> best;
  double best_loss = 0;
  for (const Tile& dropped : tiles) {
    if (kept.count(dropped) > 0) continue;
    std::vector<Stretch> without = stretches;
    double loss = 0;
    for (Stretch& stretch : without) {
      if (stretch.tile == dropped)
        loss = std::max(loss, replace(stretch, dropped, tiles, problem, machine));
    }
    if (best && loss >= best_loss) continue;
    best = std::move(without);
    best_loss = loss;
  }
  if (!best || std::isinf(best_loss)) return false;
  stretches = std::move(*best);
  return true;
}

// False when there are still too many.
bool limit_tiles(std::vector<Stretch>& stretches, const Problem& problem, const Machine& machine) {
  for (;;) {
    std::set<Tile> tiles;
    for (const Stretch& stretch : stretches) tiles.insert(stretch.tile);
    if (tiles.size() <= kMaxPlanTiles) return true;
    if (!drop_one(stretches, tiles, problem, machine)) return false;
  }
}

// The given intervals, and between them what `stretches` has there.
std::vector<Stretch> cut(const std::vector<Stretch>& stretches,
                         const std::vector<TileInterval>& given) {
  std::vector<Stretch> out;
  std::int64_t next = 0;
  const auto fill = [&](std::int64_t to) {
    for (Stretch s : stretches) {
      s.m_min = std::max(s.m_min, next);
      s.m_max = std::min(s.m_max, to);
      if (s.m_min > s.m_max) continue;
      s.decisive_m = std::clamp(s.decisive_m, s.m_min, s.m_max);
      out.push_back(s);
    }
  };
  for (const TileInterval& g : given) {
    fill(g.m_min - 1);
    out.push_back({g.m_min, g.m_max, g.m_min, g.tile, true});
    next = g.m_max + 1;
  }
  fill(kMaxM);
  return out;
}

}  // namespace

std::int64_t middle_m(const Problem& problem) {
  constexpr std::int64_t kMiddle = 512, kMiddleOfGroup = 128;
  if (problem.layout == Layout::kGroupedContiguous) return kMiddleOfGroup * problem.groups;
  return problem.layout == Layout::kGroupedMasked ? kMiddleOfGroup : kMiddle;
}

namespace {

// Neighbours with the same tile are one interval, unless one of them is given.
std::vector<TileInterval> joined(const std::vector<Stretch>& stretches) {
  std::vector<TileInterval> plan;
  bool was_given = true;
  for (const Stretch& s : stretches) {
    if (!was_given && !s.given && plan.back().tile == s.tile) {
      plan.back().m_max = s.m_max;
    } else {
      plan.push_back({s.m_min, s.m_max, s.tile});
    }
    was_given = s.given;
  }
  return plan;
}

}  // namespace

std::vector<TileInterval> plan_tiles(const Problem& problem, const Machine& machine) {
  if (problem.batch_invariant)
    return {{0, kMaxM, choose_tile(problem, middle_m(problem), machine)}};
  return plan_tiles_around({}, problem, machine);
}

std::vector<TileInterval> plan_tiles_around(const std::vector<TileInterval>& given,
                                            const Problem& problem, const Machine& machine) {
  std::vector<Stretch> stretches = cut(best_stretches(problem, machine), given);
  if (!limit_tiles(stretches, problem, machine) && !given.empty()) return {};
  return joined(stretches);
}

}  // namespace kiln::jit
