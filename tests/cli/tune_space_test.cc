// What `kiln tune` reads and what it has to choose from: the configuration, candidates, intervals.
#include "tools/tune_space.h"

#include <algorithm>
#include <random>
#include <set>

#include "jit/error.h"
#include "runtime/tile_plan.h"
#include "tests/cli/tune_support.h"
#include "tests/support/catch.h"
#include "tools/strict_json.h"
#include "tools/tune_plan.h"

using namespace kiln;
using namespace kiln::tools;
using namespace kiln::tools::test;

namespace {

// "" when the text is accepted, else the message.
std::string refusal(const std::string& text) {
  try {
    parse_tune_config(text, "t.json");
    return "";
  } catch (const Error& error) {
    CHECK(error.status() == Status::kInvalidArgument);
    return error.what();
  }
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("what is wrong with a tuning configuration is said with its place and a remedy",
          "[tune]") {
  const std::string valid = config_text();
  REQUIRE(refusal(valid) == "");
  struct Case {
    std::string from, to, place, rule;
  };
  const std::vector<Case> cases = {
      {R"("format": 1)", R"("format": 2)", "format", "2"},
      {R"("stages": [0])", R"("stages": [])", "axes.stages", "1"},
      {R"("stages": [0])", R"("stages": [1])", "axes.stages[0]", "take 0"},
      {R"("stages": [0])", R"("stages": [33])", "axes.stages[0]", "32"},
      {R"("stages": [0])", R"("stages": 4)", "axes.stages", "4"},
      {R"("stages": [0], )", "", "axes", "stages"},
      {R"([64, 128, 192, 256])", "[64, 100]", "axes.block_m[1]", "take 64"},
      {R"([64, 128, 192, 256])", "[64, 64]", "axes.block_m[1]", "listed twice"},
      {R"([64, 128, 192, 256])", "[64, 1e3]", "axes.block_m[1]", "whole number"},
      {R"("block_n": [16, )", R"("block_n": [12, )", "axes.block_n[0]", "take 8"},
      {R"("cluster_m": [1, 2])", R"("cluster_m": [1, 3])", "axes.cluster_m[1]", "1, 2, 4 or 8"},
      {R"("raster_group": [8,)", R"("raster_group": [-1,)", "axes.raster_group[0]", "0"},
      {R"("raster_group": [8,)", R"("raster_group": [1025,)", "axes.raster_group[0]", "1024"},
      {R"("axes": {)", R"("axes": {"split": [1], )", "axes", "split"},
      {R"("constraints": {})", R"("constraints": {"max_wave": 1})", "constraints", "max_waves"},
      {R"("constraints": {})", R"("constraints": {"max_waves": 5})", "constraints.max_waves", "5"},
      {R"([16, 128, 1024])", "[]", "intervals.upper", "1"},
      {R"([16, 128, 1024])", "[16, 16]", "intervals.upper[1]", "sort"},
      {R"([16, 128, 1024])", "[0]", "intervals.upper[0]", "1"},
      {R"("max_rows": 4096)", R"("cover": "some")", "intervals.cover",
       "must be all or listed, got"},
      {R"("measuring": {})", R"("measuring": {"draws": 0})", "measuring.draws", "1"},
      {R"("measuring": {})", R"("measuring": {"flush_mb": 1})", "measuring.flush_mb", "128"},
      {R"("measuring": {})", R"("measuring": {"probe_repeats": 11})", "measuring",
       "at most repeats"},
      {R"("measuring": {})", R"("measuring": {"max_kernels": 9})", "measuring.max_kernels", "8"},
      {R"("sm_90a")", R"("sm_100a")", "machine.arch", "sm_90a"},
      {R"("num_sms": 132)", R"("num_sms": 0)", "machine.num_sms", "1"},
      {R"({"format")", R"({"fromat": 1, "format")", "the document", "fromat"},
  };
  for (const Case& c : cases) {
    const std::string message = refusal(replaced(valid, c.from, c.to));
    INFO(c.from << " -> " << c.to << ": " << message);
    CHECK(contains(message, "t.json: " + c.place));
    CHECK(contains(message, c.rule));
  }
  for (std::size_t length = 0; length < valid.size(); ++length)
    CHECK(refusal(valid.substr(0, length)) != "");
}

TEST_CASE("candidates are legal, distinct, led by what is to beat and ordered by the model",
          "[tune]") {
  const TuneConfig config = parse_tune_config(
      config_text(R"({"max_waves": 2, "cluster_from_m": 512, "model_percent": 150})"), "t");
  for (const std::int64_t m : {1, 100, 512, 4000}) {
    const jit::Problem problem = dense(4096, 7168);
    const auto list = candidates(config, problem, m, kTarget);
    REQUIRE(list.size() > 5);
    CHECK(list == candidates(config, problem, m, kTarget));
    const std::vector<jit::Tile> standing = standing_choices(problem, m, kTarget);
    CHECK(standing.front() == current_tile(problem, m, kTarget));
    std::set<jit::Tile> tiles;
    const double best_us = list[standing.size()].estimate_us;
    for (std::size_t i = 0; i < list.size(); ++i) {
      CHECK(jit::is_legal(list[i].tile, problem));
      CHECK(tiles.insert(list[i].tile).second);
      CHECK(list[i].estimate_us == jit::estimate_us(problem, list[i].tile, m, kTarget.machine));
      if (i < standing.size()) {
        CHECK(list[i].tile == standing[i]);
        continue;
      }
      CHECK((i == standing.size() || list[i - 1].estimate_us <= list[i].estimate_us));
      CHECK(list[i].estimate_us <= 1.5 * best_us);
      CHECK(jit::waves(list[i].tile) <= 2);
      CHECK((m >= 512 || list[i].tile.cluster_m * list[i].tile.cluster_n == 1));
    }
  }
}

TEST_CASE("what an engine would launch now and the default choice are always candidates",
          "[tune]") {
  // Nothing on these axes is any of them.
  const TuneConfig config =
      parse_tune_config(replaced(config_text(R"({"max_candidates": 1})"),
                                 R"("block_m": [64, 128, 192, 256])", R"("block_m": [64])"),
                        "t");
  const jit::Problem problem = dense(4096, 7168);
  runtime::TunedFile file;
  file.gpu = "g";
  file.num_sms = 132;
  const jit::Tile tabled = jit::parse_tile("64x64/1x1/s3/c1x1/r77", "");
  file.entries = {{problem, {{1000, 3000, tabled, 2048, 1.0, {}, 0, 0, 0}}}};
  TuneTarget target = kTarget;
  target.tables.add(runtime::TunedTable::load(runtime::to_text(file), "table"));
  CHECK(current_tile(problem, 2048, target) == tabled);
  CHECK(current_tile(problem, 2048, kTarget) != tabled);
  CHECK(current_tile(problem, 4096, target) == current_tile(problem, 4096, kTarget));
  const auto list = candidates(config, problem, 2048, target);
  const auto has = [&](const jit::Tile& tile) {
    return std::any_of(list.begin(), list.end(), [&](const auto& c) { return c.tile == tile; });
  };
  CHECK(list.front().tile == tabled);
  CHECK(has(current_tile(problem, 2048, kTarget)));
  CHECK(has(jit::choose_tile(problem, 2048, kTarget.machine)));
  CHECK(list.size() == standing_choices(problem, 2048, target).size() + 1);
}

TEST_CASE("the shipped configuration can make every tile that the default choice can take",
          "[tune]") {
  TuneConfig config = load_tune_config(KILN_CONFIGS_DIR "/tune/h200.json");
  config.constraints.model_percent = config.constraints.max_candidates = 100'000;
  std::size_t menu = 0;
  for (const NamedProblem& named :
       load_shapes(KILN_CONFIGS_DIR "/bench/h200-anchor.json").problems) {
    for (const std::int64_t m : {8, 512, 4096, 32768}) {
      const auto list = candidates(config, named.problem, m, kTarget);
      std::set<jit::Tile> tiles;
      for (const Candidate& c : list) tiles.insert(c.tile);
      for (jit::Tile tile : jit::legal_tiles(named.problem)) {
        if (jit::is_for_few_rows(tile) != (m == 8)) continue;
        // Masked groups of few rows: the default choice has another order of work than the menu.
        if (m > 8) tile.raster_group = list.front().tile.raster_group;
        ++menu;
        INFO(jit::describe(named.problem) << " m=" << m << " " << jit::describe(tile));
        CHECK(tiles.count(tile) == 1);
      }
    }
  }
  CHECK(menu > 10'000);
}

TEST_CASE("refinements are the other stages and the other orders of work, and stay legal",
          "[tune]") {
  const TuneConfig config =
      parse_tune_config(replaced(replaced(config_text(), R"("stages": [0])", R"("stages": [0, 2])"),
                                 R"("raster_group": [8, 1, 16])", R"("raster_group": [0, 1, 16])"),
                        "t");
  const jit::Problem problem = dense(4096, 7168);
  const jit::Tile tile = candidates(config, problem, 4096, kTarget).front().tile;
  const auto list = refinements(config, problem, 4096, tile);
  CHECK(list.size() == 3);
  for (const jit::Tile& other : list) {
    CHECK(jit::is_legal(other, problem));
    CHECK((other.stages != tile.stages) != (other.raster_group != tile.raster_group));
  }
  CHECK(refinements(config, problem, 1, tile).size() == 1);  // one row of tiles has one order
}

TEST_CASE("a plan of tuning the anchor table stays within ten minutes on 16 cores", "[tune]") {
  const TuneConfig config = load_tune_config(KILN_CONFIGS_DIR "/tune/h200.json");
  const auto shapes = load_shapes(KILN_CONFIGS_DIR "/bench/h200-anchor.json").problems;
  const auto plan = plan_problems(config, shapes, kTarget, {});
  std::size_t intervals = 0;
  double compile_s = 0, measure_s = 0;
  for (const PlannedProblem& p : plan) {
    CHECK(p.error == "");
    intervals += p.intervals.size();
    compile_s += p.seconds.compile;
    measure_s += p.seconds.measure();
  }
  CHECK(intervals == 65);
  CHECK(compile_s / 16 < 120);
  CHECK(compile_s / 16 + measure_s < 600);
}

TEST_CASE("intervals cover every M, and their M lies inside and within the rows allowed",
          "[tune]") {
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    TuneIntervals rules;
    std::int64_t last = 0;
    for (std::size_t i = 0; i < 1 + random() % 8; ++i)
      rules.upper.push_back(last += 1 + static_cast<std::int64_t>(random() % 5000));
    rules.max_rows = 1 + static_cast<std::int64_t>(random() % 40'000);
    jit::Problem problem = dense(512, 512);
    if (round % 3 == 0) {
      problem.layout = jit::Layout::kGroupedMasked;
      problem.groups = 1 + static_cast<std::int32_t>(random() % 64);
    }
    const std::int64_t groups = round % 3 == 0 ? problem.groups : 1;
    const std::vector<std::int64_t> listed = {static_cast<std::int64_t>(random() % 9000)};
    std::int64_t first = 0;
    for (const TuneInterval& interval : tune_intervals(rules, problem, listed)) {
      CHECK(interval.m_min == first);
      CHECK((interval.m >= interval.m_min && interval.m <= interval.m_max));
      CHECK((interval.m * groups <= rules.max_rows || interval.m == 1));
      first = interval.m_max + 1;
    }
    CHECK(first == jit::kMaxM + 1);
    rules.cover = TuneCover::kListed;
    const auto only = tune_intervals(rules, problem, listed);
    CHECK(only.size() <= 1);
    for (const TuneInterval& i : only) CHECK((i.m_min <= listed[0] && listed[0] <= i.m_max));
  }
}
