// The search of `kiln tune` over a GPU made of arithmetic.
#include "tools/tune_search.h"

#include <algorithm>
#include <limits>
#include <random>
#include <set>

#include "tests/cli/tune_support.h"
#include "tests/support/catch.h"
#include "tools/tune_cover.h"

using namespace kiln;
using namespace kiln::tools;
using namespace kiln::tools::test;

namespace {

// The fastest there is among all candidates and what they can be refined to.
double best_us(const TuneConfig& config, const FakeGpu& gpu, const jit::Problem& problem,
               std::int64_t m) {
  double best = std::numeric_limits<double>::infinity();
  for (const Candidate& candidate : candidates(config, problem, m, kTarget)) {
    best = std::min(best, gpu.true_us(problem, m, candidate.tile));
    for (const jit::Tile& tile : refinements(config, problem, m, candidate.tile))
      best = std::min(best, gpu.true_us(problem, m, tile));
  }
  return best;
}

}  // namespace

TEST_CASE("the tuner finds a tile within 1 % of the best", "[tune]") {
  const TuneConfig config = parse_tune_config(config_text("{}", R"({"patience": 60})"), "t");
  int searches = 0;
  for (const auto& [n, k] :
       {std::pair(2112, 7168), std::pair(7168, 2048), std::pair(24576, 1536)}) {
    for (const std::int64_t m : {1, 64, 200, 4096}) {
      for (const std::uint64_t seed : {1, 2, 3}) {
        FakeGpu gpu;
        gpu.seed = seed;
        const jit::Problem problem = dense(n, k);
        const IntervalResult result = search_interval(config, problem, {m, m, m}, kTarget, gpu);
        REQUIRE(result.winner);
        INFO(n << "x" << k << " m=" << m << " seed " << seed);
        CHECK(gpu.true_us(problem, m, result.winner->tile) <=
              1.01 * best_us(config, gpu, problem, m));
        CHECK(gpu.true_us(problem, m, result.winner->tile) <=
              1.005 * gpu.true_us(problem, m, current_tile(problem, m, kTarget)));
        ++searches;
      }
    }
  }
  CHECK(searches == 36);
}

TEST_CASE("with few rows the stages of the eight best tiles are tried", "[tune]") {
  const std::string axes = R"("block_m": [8], "block_n": [16, 32, 64, 96], "warpgroups_m": [1],
      "warpgroups_n": [1], "stages": [0, 4], "cluster_m": [1], "cluster_n": [1],
      "warpgroups_k": [1, 2], "cluster_k": [1, 2], "raster_group": [1])";
  const TuneConfig config = parse_tune_config(
      R"({"format": 1, "machine": {"arch": "sm_90a", "num_sms": 132}, "axes": {)" + axes +
          R"(}, "constraints": {"model_percent": 1000}, "intervals": {"upper": [8]},
      "measuring": {"patience": 100}})",
      "t");
  const jit::Problem problem = dense(24576, 1536);
  FakeGpu gpu;
  gpu.spread = gpu.noise = 0;
  // The sixth by its estimate is the best of all, but only with 4 stages.
  std::vector<Candidate> order = candidates(config, problem, 1, kTarget);
  std::erase_if(order, [](const Candidate& c) { return c.tile.stages == 4; });
  std::stable_sort(order.begin(), order.end(), [](const Candidate& a, const Candidate& b) {
    return a.estimate_us < b.estimate_us;
  });
  REQUIRE(order.size() > 8);
  jit::Tile best = order[5].tile;
  best.stages = 4;
  gpu.damage = [&](const jit::Tile& tile, std::size_t, TileMeasurement& m) {
    if (tile != best) return;
    for (double& us : m.times_us) us /= 8;
  };
  const IntervalResult result = search_interval(config, problem, {1, 1, 1}, kTarget, gpu);
  REQUIRE(result.winner);
  CHECK(describe(result.winner->tile) == describe(best));
}

TEST_CASE("a candidate whose check fails is never chosen, whatever its time", "[tune]") {
  const TuneConfig config = parse_tune_config(config_text(), "t");
  const jit::Problem problem = dense(4096, 4096);
  for (const bool late : {false, true}) {
    FakeGpu gpu;
    std::set<jit::Tile> bad;
    gpu.damage = [&](const jit::Tile& tile, std::size_t call, TileMeasurement& m) {
      // Every third tile lies, and is fast; late: only from the final on.
      if (gpu.draw(describe(tile)) > 1.0 / 3) return;
      for (double& us : m.times_us) us /= 4;
      if (late && call < 60) return;
      m.checked = false;
      m.difference = 0.5;
      bad.insert(tile);
    };
    const IntervalResult result = search_interval(config, problem, {512, 512, 512}, kTarget, gpu);
    REQUIRE(result.winner);
    CHECK_FALSE(bad.empty());
    CHECK(gpu.draw(describe(result.winner->tile)) > 1.0 / 3);
    CHECK(bad.count(result.winner->tile) == 0);
    if (result.runner_up) CHECK(bad.count(result.runner_up->tile) == 0);
    for (const auto& [tile, us] : result.times_us) CHECK((late || bad.count(tile) == 0));
    CHECK(result.rejected.size() == bad.size());
  }
}

TEST_CASE("when no candidate passes there is no winner and no entry", "[tune]") {
  const TuneConfig config = parse_tune_config(config_text(), "t");
  FakeGpu gpu;
  gpu.damage = [](const jit::Tile&, std::size_t call, TileMeasurement& m) {
    if (call % 2 == 0) m.error = "launch failed";
    m.checked = false;
  };
  const ProblemResult result =
      search_problem(config, dense(512, 512), {{0, 16, 1}, {17, 64, 64}}, kTarget, gpu, {});
  CHECK(result.chosen.empty());
  CHECK(result.intervals.size() == 2);
  CHECK_FALSE(result.intervals[0].winner);
  CHECK(result.intervals[0].rejected.size() == result.intervals[0].measured);
}

TEST_CASE("hopeless candidates get a short look, and far down the order none at all", "[tune]") {
  const TuneConfig config = parse_tune_config(
      config_text("{}", R"({"patience": 8, "probe_repeats": 2, "repeats": 20})"), "t");
  FakeGpu gpu;
  gpu.spread = 0.02;
  const IntervalResult result =
      search_interval(config, dense(4096, 7168), {2048, 2048, 2048}, kTarget, gpu);
  CHECK(result.candidates > 60);
  CHECK(result.measured < 40);
  CHECK(gpu.seen.size() == result.measured);
  const TuneConfig patient = parse_tune_config(
      config_text("{}", R"({"patience": 1000, "probe_repeats": 2, "repeats": 20})"), "t");
  FakeGpu other;
  other.spread = 0.02;
  const IntervalResult all =
      search_interval(patient, dense(4096, 7168), {2048, 2048, 2048}, kTarget, other);
  CHECK(all.measured >= all.candidates);
  CHECK(all.hopeless > all.measured / 2);
  CHECK(other.samples < 2 * all.measured + 20 * (all.measured - all.hopeless) + 5 * 8 * 4 + 1);
  CHECK(all.winner->tile == result.winner->tile);
}

TEST_CASE("equal tiles leave the current choice in place: a gain must exceed the noise", "[tune]") {
  const TuneConfig config =
      parse_tune_config(config_text(R"({"max_candidates": 6})", R"({"noise_percent": 400})"), "t");
  const jit::Problem problem = dense(4096, 4096);
  int changed = 0;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    FakeGpu gpu;
    gpu.seed = seed;
    gpu.noise = 0.01;
    std::mt19937_64 random(seed);
    std::normal_distribution<double> jitter(1, 0.01);
    gpu.damage = [&](const jit::Tile&, std::size_t, TileMeasurement& m) {
      for (double& us : m.times_us) us = 100 * jitter(random);
    };
    const IntervalResult result = search_interval(config, problem, {512, 512, 512}, kTarget, gpu);
    CHECK(result.noise_us > 0);
    CHECK(result.noise_us < 1);
    changed += result.winner->tile != current_tile(problem, 512, kTarget);
  }
  CHECK(changed <= 3);
}

TEST_CASE("few kernels serve all intervals at the least loss", "[tune]") {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> draw(1, 1.2);
  for (int round = 0; round < 60; ++round) {
    const std::size_t kernels = 4 + random() % 4, intervals = 5, most = 1 + random() % 4;
    std::vector<std::vector<double>> times(intervals, std::vector<double>(kernels));
    for (auto& row : times)
      for (double& time : row)
        time = random() % 6 == 0 ? std::numeric_limits<double>::infinity() : draw(random);
    for (auto& row : times) row[random() % kernels] = 1.0;
    const KernelChoice choice = choose_kernels(times, most, 0.03);
    CHECK(choice.kept <= most);
    // All sets, by their bits.
    double least_max = 1e9, least_sum_within = 1e9;
    for (unsigned set = 1; set < (1u << kernels); ++set) {
      if (static_cast<std::size_t>(__builtin_popcount(set)) > most) continue;
      double largest = 0, sum = 0;
      for (const auto& row : times) {
        double best = std::numeric_limits<double>::infinity();
        for (std::size_t k = 0; k < kernels; ++k)
          if ((set >> k & 1) != 0) best = std::min(best, row[k]);
        const double loss = best / *std::min_element(row.begin(), row.end()) - 1;
        largest = std::max(largest, loss);
        sum += loss;
      }
      least_max = std::min(least_max, largest);
      if (largest <= 0.03) least_sum_within = std::min(least_sum_within, sum);
    }
    double sum = 0;
    for (const double loss : choice.loss) sum += loss;
    if (least_sum_within < 1e9) {
      CHECK(choice.max_loss <= 0.03);
      CHECK(is_near(sum, least_sum_within, 1e-9));
    } else if (least_max < 1e9) {
      CHECK(is_near(choice.max_loss, least_max, 1e-9));
    }
  }
}

TEST_CASE("many kernels are dropped one by one, and the loss stays small where it can", "[tune]") {
  // 60 kernels in 60 intervals, each the best of its own; every eighth serves its neighbours too.
  std::vector<std::vector<double>> times(60, std::vector<double>(60, 2.0));
  for (std::size_t i = 0; i < 60; ++i) {
    times[i][i / 8 * 8] = 1.01;
    times[i][i] = 1.0;
  }
  const KernelChoice choice = choose_kernels(times, 8, 0.03);
  CHECK(choice.kept == 8);
  CHECK(is_near(choice.max_loss, 0.01, 1e-9));
}

TEST_CASE("at most max_kernels tiles serve a problem, and the loss is what was measured",
          "[tune]") {
  const TuneConfig config =
      parse_tune_config(config_text(R"({"max_candidates": 30})", R"({"max_kernels": 3})",
                                    "[4, 16, 64, 128, 192, 256, 384, 512, 768, 1024, 2048]"),
                        "t");
  const jit::Problem problem = dense(7168, 2048);
  FakeGpu gpu;
  gpu.spread = 0.15;
  const auto intervals = tune_intervals(config.intervals, problem, {});
  const ProblemResult result = search_problem(config, problem, intervals, kTarget, gpu, {});
  std::set<jit::Tile> winners, chosen;
  for (const IntervalResult& interval : result.intervals) winners.insert(interval.winner->tile);
  REQUIRE(winners.size() > 3);
  REQUIRE(result.chosen.size() == intervals.size());
  double worst = 0;
  for (std::size_t i = 0; i < result.chosen.size(); ++i) {
    const ChosenTile& c = result.chosen[i];
    chosen.insert(c.chosen.tile);
    worst = std::max(worst, c.loss);
    CHECK(winners.count(c.chosen.tile) == 1);
    CHECK(is_near(c.chosen.time_us, result.intervals[i].winner->time_us * (1 + c.loss), 1e-6));
    CHECK(is_near(c.chosen.time_us / gpu.true_us(problem, c.interval.m, c.chosen.tile), 1, 0.03));
  }
  CHECK(chosen.size() == result.kernels);
  CHECK(result.kernels <= 3);
  CHECK(result.max_loss == worst);
}
