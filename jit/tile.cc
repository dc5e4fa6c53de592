#include "jit/tile.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numeric>
#include <optional>

#include "jit/error.h"
#include "templates/smem_layout.cuh"

namespace kiln::jit {
namespace {

std::int32_t consumers(const Tile& t) { return t.warpgroups_m * t.warpgroups_n; }
std::int32_t waves(const Tile& t) {
  return t.block_m / t.warpgroups_m / static_cast<int>(device::kWaveRows);
}
std::int32_t warpgroup_n(const Tile& t) { return t.block_n / t.warpgroups_n; }

// Groups of columns that share a column scale wherever the tile begins.
std::int32_t scale_chunks(const Tile& t) {
  return warpgroup_n(t) /
         std::gcd(std::gcd(t.block_n, warpgroup_n(t)), static_cast<std::int32_t>(kScaleBlock));
}

device::SmemLayout layout_of(const Tile& t, const Problem& p) {
  return device::smem_layout(
      {static_cast<std::uint32_t>(t.block_m), static_cast<std::uint32_t>(t.block_n),
       static_cast<std::uint32_t>(t.warpgroups_m), static_cast<std::uint32_t>(t.warpgroups_n),
       static_cast<std::uint32_t>(t.stages), static_cast<std::uint32_t>(t.cluster_n),
       static_cast<std::uint32_t>(element_bytes(p.out)), p.sfa_major == ScaleMajor::kRow,
       p.scaling == Scaling::k1d1d,
       has_row_groups(p) ? static_cast<std::uint32_t>(group_capacity(p)) : 0});
}

// Registers a consumer thread has after redistribution (templates/gemm_shape.cuh), and needs: one
// accumulator, one total per wave, the column scales of a ragged width, and what addresses take.
std::int32_t registers_available(const Tile& t) {
  return consumers(t) == 4 ? 112 : consumers(t) == 3 ? 160 : 232;
}
std::int32_t registers_needed(const Tile& t) {
  constexpr std::int32_t kOther = 32;
  return (waves(t) + 1) * warpgroup_n(t) / 2 + kOther;
}

// The first rule that the tile breaks, in words.
std::optional<std::string> broken_rule(const Tile& t, const Problem& p) {
  const auto in = [](std::int32_t value, std::int32_t low, std::int32_t high) {
    return value >= low && value <= high;
  };
  if (!in(t.warpgroups_m, 1, 4) || !in(t.warpgroups_n, 1, 4) || consumers(t) > 4)
    return fmt::format("warpgroups_m x warpgroups_n must be 1 to 4 in all, got {}x{}",
                       t.warpgroups_m, t.warpgroups_n);
  if (!in(t.block_m, 64, 256) || t.block_m % (64 * t.warpgroups_m) != 0)
    return fmt::format("block_m must be a multiple of 64 * warpgroups_m = {} in 64..256, got {}",
                       64 * t.warpgroups_m, t.block_m);
  if (!in(t.block_n, 8, 256) || t.block_n % (8 * t.warpgroups_n) != 0)
    return fmt::format("block_n must be a multiple of 8 * warpgroups_n = {} in 8..256, got {}",
                       8 * t.warpgroups_n, t.block_n);
  if (!in(t.stages, 2, 32)) return fmt::format("stages must be in 2..32, got {}", t.stages);
  const auto cluster_ok = [](std::int32_t c) { return c == 1 || c == 2 || c == 4 || c == 8; };
  if (!cluster_ok(t.cluster_m) || !cluster_ok(t.cluster_n) || t.cluster_m * t.cluster_n > 8)
    return fmt::format(
        "cluster_m and cluster_n must be 1, 2, 4 or 8 with a product of at most 8, got {}x{}",
        t.cluster_m, t.cluster_n);
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
  if (registers_needed(t) > registers_available(t))
    return fmt::format(
        "a consumer thread needs about {} registers and has {}: make block_n smaller or use more "
        "warpgroups",
        registers_needed(t), registers_available(t));
  const std::int64_t bytes = layout_of(t, p).total;
  if (bytes > device::kMaxSmemBytes)
    return fmt::format(
        "shared memory must be at most {} bytes, needs {}: use fewer stages or a smaller tile",
        device::kMaxSmemBytes, bytes);
  return std::nullopt;
}

// As many stages as fit beside enough staging for D that its stores overlap, at most 16.
std::int32_t most_stages(Tile t, const Problem& p) {
  for (t.stages = 16; t.stages > 2; --t.stages) {
    const auto layout = layout_of(t, p);
    if (layout.total <= device::kMaxSmemBytes && layout.d_slots >= std::min(2u, layout.d_chunks))
      break;
  }
  return t.stages;
}

// Short K is bound by writing D: taller bands then keep more of it close together (1 % at K = 512
// and 1536, M = 4096; 8 is better from K = 2048 on).
std::int32_t raster_group(const Problem& p) { return p.k <= 1536 ? 16 : 8; }

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

// Cycles that one k-block of a tile takes in steady state while `active` SMs work.
double cycles_per_k_block(const Tile& t, double rows, double active) {
  const double n = warpgroup_n(t);
  const double ragged = scale_chunks(t) - 1;           // column scales beyond the first
  const double mma = 4 * std::max(n / 2, 16 + n / 4);  // four WGMMAs of one wave
  const double tensor = (mma * kTensorSlowdown + 5.6 * ragged) * waves(t) * consumers(t);
  const double chain = (mma + 0.62 * n + 93 + 3.7 * ragged) * waves(t) +
                       61;  // issue, wait, promote; then the barrier
  const double fill = (t.block_m + t.block_n) * 128 / kFillBytesPerCycle;
  const double l2 = (static_cast<double>(t.block_m) / t.cluster_n +
                     static_cast<double>(t.block_n) / t.cluster_m) *
                    128 * active / kL2BytesPerCycle;
  const double hot =
      kHotLineCycles * std::max(0.0, active - kHotLineFreeCtas) / std::pow(rows, kHotLineExponent);
  return combine(std::array{tensor, chain, fill, l2}, 9.2) + hot;
}

}  // namespace

void validate(const Tile& tile, const Problem& problem) {
  if (auto rule = broken_rule(tile, problem))
    throw Error(Status::kInvalidArgument, fmt::format("tile {}: {}", describe(tile), *rule));
}

bool is_legal(const Tile& tile, const Problem& problem) { return !broken_rule(tile, problem); }

std::vector<Tile> legal_tiles(const Problem& problem) {
  // Widths from measurement: two warpgroups side by side pay from 48 columns each, one is slow
  // beyond 128; 24, 144 and 176 columns lose to a neighbour nearly everywhere for their many column
  // scales.
  struct Shape {
    std::int32_t block_m, warpgroups_m, warpgroups_n, narrowest, widest;
  };
  constexpr std::array kShapes{Shape{64, 1, 1, 16, 128}, Shape{64, 1, 2, 96, 256},
                               Shape{128, 2, 1, 32, 192}, Shape{192, 3, 1, 64, 128},
                               Shape{256, 2, 1, 64, 128}};
  constexpr std::array kWidths{16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256};
  std::vector<Tile> tiles;
  for (const Shape& s : kShapes) {
    for (const std::int32_t width : kWidths) {
      if (width < s.narrowest || width > s.widest) continue;
      for (const std::int32_t cluster_m : {1, 2}) {
        for (const std::int32_t cluster_n : {1, 2}) {
          if (cluster_m * cluster_n > 2) continue;
          Tile t{s.block_m, width,     s.warpgroups_m, s.warpgroups_n,
                 2,         cluster_m, cluster_n,      raster_group(problem)};
          t.stages = most_stages(t, problem);
          if (is_legal(t, problem)) tiles.push_back(t);
        }
      }
    }
  }
  return tiles;
}

double estimate_us(const Problem& p, const Tile& t, std::int64_t m, const Machine& machine) {
  const double rows = static_cast<double>(std::max<std::int64_t>(m, 1)),
               columns = static_cast<double>(p.n);
  const double cluster = t.cluster_m * t.cluster_n,
               out = static_cast<double>(element_bytes(p.out)) * (p.accumulate ? 2 : 1);
  const double units = std::max(1.0, std::floor(machine.num_sms / cluster));
  const double tiles =
      std::ceil(rows / (t.block_m * t.cluster_m)) * std::ceil(columns / (t.block_n * t.cluster_n));
  const double rounds = std::ceil(tiles / units);
  const double cycles = static_cast<double>(scale_blocks(p.k)) *
                            cycles_per_k_block(t, rows, std::min(tiles, units) * cluster) +
                        kTileCycles + t.block_m * t.block_n * out / kStoreBytesPerCycle;
  const double compute_us =
      rounds * cycles / (kClockGhz * 1e3) * (cluster > 1 ? kClusterSlowdown : 1.0);
  const double bytes = (rows + columns) * static_cast<double>(p.k) + rows * columns * out;
  return kFixedUs + combine(std::array{compute_us, bytes / kHbmBytesPerUs}, 3.0);
}

Tile choose_tile(const Problem& problem, std::int64_t m, const Machine& machine) {
  constexpr std::int64_t kClustersFromM =
      1024;  // below, partners wait for each other more than they share
  std::optional<Tile> best;
  double best_us = 0;
  for (const Tile& tile : legal_tiles(problem)) {
    if (m < kClustersFromM && tile.cluster_m * tile.cluster_n > 1) continue;
    const double us = estimate_us(problem, tile, m, machine);
    if (!best || us < best_us) {
      best = tile;
      best_us = us;
    }
  }
  return *best;  // the menu always holds 64x16
}

std::vector<TileInterval> plan_tiles(const Problem& problem, const Machine& machine) {
  constexpr std::array<std::int64_t, 19> kUpper{4,    16,   32,   64,    128,  192,  256,
                                                384,  512,  768,  1024,  1536, 2048, 3072,
                                                4096, 6144, 8192, 16384, kMaxM};
  constexpr std::int64_t kLargestModelled = 32768;
  std::vector<TileInterval> plan;
  std::int64_t first = 0;
  for (const std::int64_t last : kUpper) {
    // The largest M decides, as it has the most tiles; at the very smallest it is the single row
    // that is slowest.
    const std::int64_t decisive = last <= 4 ? 1 : std::min(last, kLargestModelled);
    const Tile tile = choose_tile(problem, decisive, machine);
    if (!plan.empty() && plan.back().tile == tile) {
      plan.back().m_max = last;
    } else {
      plan.push_back({first, last, tile});
    }
    first = last + 1;
  }
  return plan;
}

std::string describe(const Tile& t) {
  return fmt::format("{}x{}/{}x{}/s{}/c{}x{}/r{}", t.block_m, t.block_n, t.warpgroups_m,
                     t.warpgroups_n, t.stages, t.cluster_m, t.cluster_n, t.raster_group);
}

Tile parse_tile(std::string_view text, std::string_view field) {
  const auto fail = [&]() -> Error {
    return Error(
        Status::kInvalidArgument,
        fmt::format(
            "{} must look like 128x192/2x1/s4/c2x1/r8 (block_m x block_n / warpgroups / stages / "
            "cluster / raster; trailing parts may be left out), got \"{}\"",
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
  if (!rest.empty()) expect("/"), t.warpgroups_m = number(), expect("x"), t.warpgroups_n = number();
  if (!rest.empty()) expect("/s"), t.stages = number();
  if (!rest.empty()) expect("/c"), t.cluster_m = number(), expect("x"), t.cluster_n = number();
  if (!rest.empty()) expect("/r"), t.raster_group = number();
  if (!rest.empty()) throw fail();
  return t;
}

std::int32_t threads(const Tile& t) { return 128 * (consumers(t) + 1); }

std::int64_t smem_bytes(const Tile& t, const Problem& p) { return layout_of(t, p).total; }

}  // namespace kiln::jit
