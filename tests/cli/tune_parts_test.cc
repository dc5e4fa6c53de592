// The parts of `kiln tune` in process, over a GPU made of arithmetic.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <thread>

#include "jit/error.h"
#include "tests/cli/tune_support.h"
#include "tests/support/catch.h"
#include "tools/tune_compile.h"
#include "tools/tune_cover.h"
#include "tools/tune_journal.h"
#include "tools/tune_space.h"

using namespace kiln;
using namespace kiln::tools;
using namespace kiln::tools::test;

namespace {

const jit::Machine kMachine{132};

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

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// The fastest there is among all candidates and what they can be refined to.
double best_us(const TuneConfig& config, const FakeGpu& gpu, const jit::Problem& problem,
               std::int64_t m) {
  double best = std::numeric_limits<double>::infinity();
  for (const Candidate& candidate : candidates(config, problem, m, kMachine)) {
    best = std::min(best, gpu.true_us(problem, m, candidate.tile));
    for (const jit::Tile& tile : refinements(config, problem, m, candidate.tile))
      best = std::min(best, gpu.true_us(problem, m, tile));
  }
  return best;
}

std::string summary(const ProblemResult& result) {
  std::ostringstream out;
  out.precision(17);
  for (const TunedInterval& chosen : result.chosen)
    out << chosen.interval.m_min << ' ' << chosen.interval.m << ' ' << describe(chosen.chosen.tile)
        << ' ' << chosen.chosen.time_us << ' ' << chosen.loss << '\n';
  for (const IntervalResult& i : result.intervals)
    out << i.measured << ' ' << i.rejected.size() << ' ' << i.noise_us << '\n';
  return out.str();
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
      {R"("raster_group": [8,)", R"("raster_group": [0,)", "axes.raster_group[0]", "1"},
      {R"("axes": {)", R"("axes": {"split": [1], )", "axes", "split"},
      {R"("constraints": {})", R"("constraints": {"max_wave": 1})", "constraints", "max_waves"},
      {R"("constraints": {})", R"("constraints": {"max_waves": 5})", "constraints.max_waves", "5"},
      {R"([16, 128, 1024])", "[]", "intervals.upper", "1"},
      {R"([16, 128, 1024])", "[16, 16]", "intervals.upper[1]", "sort"},
      {R"([16, 128, 1024])", "[0]", "intervals.upper[0]", "1"},
      {R"("max_rows": 4096)", R"("cover": "some")", "intervals.cover", "listed"},
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

TEST_CASE("candidates are legal, distinct, led by the default's tile and ordered by the model",
          "[tune]") {
  const TuneConfig config = parse_tune_config(
      config_text(R"({"max_waves": 2, "cluster_from_m": 512, "model_percent": 150})"), "t");
  for (const std::int64_t m : {1, 100, 512, 4000}) {
    const jit::Problem problem = dense(4096, 7168);
    const auto list = candidates(config, problem, m, kMachine);
    REQUIRE(list.size() > 5);
    CHECK(list == candidates(config, problem, m, kMachine));
    CHECK(list.front().tile == current_tile(problem, m, kMachine));
    std::set<jit::Tile> tiles;
    for (std::size_t i = 0; i < list.size(); ++i) {
      CHECK(jit::is_legal(list[i].tile, problem));
      CHECK(tiles.insert(list[i].tile).second);
      if (i < 2) continue;
      CHECK(list[i - 1].estimate_us <= list[i].estimate_us);
      CHECK(list[i].estimate_us <= 1.5 * std::min(list[0].estimate_us, list[1].estimate_us));
      CHECK(jit::waves(list[i].tile) <= 2);
      CHECK((m >= 512 || list[i].tile.cluster_m * list[i].tile.cluster_n == 1));
    }
  }
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
        const IntervalResult result = search_interval(config, problem, {m, m, m}, kMachine, gpu);
        REQUIRE(result.winner);
        INFO(n << "x" << k << " m=" << m << " seed " << seed);
        CHECK(gpu.true_us(problem, m, result.winner->tile) <=
              1.01 * best_us(config, gpu, problem, m));
        CHECK(gpu.true_us(problem, m, result.winner->tile) <=
              1.005 * gpu.true_us(problem, m, current_tile(problem, m, kMachine)));
        ++searches;
      }
    }
  }
  CHECK(searches == 36);
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
    const IntervalResult result = search_interval(config, problem, {512, 512, 512}, kMachine, gpu);
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
      search_problem(config, dense(512, 512), {{0, 16, 1}, {17, 64, 64}}, kMachine, gpu, {});
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
      search_interval(config, dense(4096, 7168), {2048, 2048, 2048}, kMachine, gpu);
  CHECK(result.candidates > 60);
  CHECK(result.measured < 40);
  CHECK(gpu.seen.size() == result.measured);
  const TuneConfig patient = parse_tune_config(
      config_text("{}", R"({"patience": 1000, "probe_repeats": 2, "repeats": 20})"), "t");
  FakeGpu other;
  other.spread = 0.02;
  const IntervalResult all =
      search_interval(patient, dense(4096, 7168), {2048, 2048, 2048}, kMachine, other);
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
    const IntervalResult result = search_interval(config, problem, {512, 512, 512}, kMachine, gpu);
    CHECK(result.noise_us > 0);
    CHECK(result.noise_us < 1);
    changed += result.winner->tile != current_tile(problem, 512, kMachine);
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
  const ProblemResult result = search_problem(config, problem, intervals, kMachine, gpu, {});
  std::set<jit::Tile> winners, chosen;
  for (const IntervalResult& interval : result.intervals) winners.insert(interval.winner->tile);
  REQUIRE(winners.size() > 3);
  REQUIRE(result.chosen.size() == intervals.size());
  double worst = 0;
  for (std::size_t i = 0; i < result.chosen.size(); ++i) {
    const TunedInterval& c = result.chosen[i];
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

namespace {

const nlohmann::ordered_json kIdentity = {{"config", "c"}, {"gpu", "g"}, {"num_sms", 132}};

// The whole search over a journal.
ProblemResult tune(const std::string& journal_path, FakeGpu& gpu) {
  const TuneConfig config = parse_tune_config(
      config_text(R"({"max_candidates": 8})", R"({"final_rounds": 2, "max_kernels": 2})"), "t");
  TuneJournal journal(journal_path, kIdentity);
  gpu.first_call = journal.recorded();
  JournaledMeasurer measurer(journal, gpu);
  const jit::Problem problem = dense(4096, 2048);
  return search_problem(config, problem, tune_intervals(config.intervals, problem, {}), kMachine,
                        measurer, {});
}

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

std::string journal_refusal(const std::string& path, const nlohmann::ordered_json& identity) {
  try {
    const TuneJournal journal(path, identity);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("a search that is cut at any measurement ends as one that was not", "[tune]") {
  const TempDir dir;
  FakeGpu whole;
  const std::string expected = summary(tune(dir.path() + "/whole", whole));
  REQUIRE(whole.calls > 50);
  for (std::size_t cut = 0; cut < whole.calls; ++cut) {
    const std::string path = dir.path() + "/cut" + std::to_string(cut);
    FakeGpu killed;
    killed.killed_at = cut;
    CHECK_THROWS_AS(tune(path, killed), Killed);
    FakeGpu resumed;
    CHECK(summary(tune(path, resumed)) == expected);
    CHECK(resumed.calls == whole.calls - cut);
    FakeGpu again;
    CHECK(summary(tune(path, again)) == expected);
    CHECK(again.calls == 0);
  }
}

TEST_CASE("a journal that is torn or damaged at any byte is used up to there", "[tune]") {
  const TempDir dir;
  FakeGpu whole;
  const std::string path = dir.path() + "/journal";
  const std::string expected = summary(tune(path, whole));
  const std::string text = read_text(path);
  std::mt19937 random(5);
  for (int round = 0; round < 60; ++round) {
    const std::size_t length = round < 40 ? random() % text.size() : random() % 120;
    write_text(path, text.substr(0, length));
    FakeGpu resumed;
    CHECK(summary(tune(path, resumed)) == expected);
    CHECK(read_text(path) == text);
  }
  const std::size_t first_line = text.find('\n') + 1;
  for (int round = 0; round < 20; ++round) {
    std::string damaged = text;
    const std::size_t newline = text.find('\n', first_line + random() % (text.size() / 2));
    damaged.insert(newline + 1, "}damage");
    write_text(path, damaged);
    FakeGpu resumed;
    CHECK(summary(tune(path, resumed)) == expected);
    CHECK(read_text(path) == text);
  }
}

TEST_CASE("a journal of something else is refused and left alone", "[tune]") {
  const TempDir dir;
  const std::string path = dir.path() + "/journal";
  CHECK(journal_refusal(path, kIdentity) == "");
  CHECK(journal_refusal(path, kIdentity) == "");
  nlohmann::ordered_json other = kIdentity;
  other["num_sms"] = 114;
  const std::string before = read_text(path);
  const std::string message = journal_refusal(path, other);
  CHECK(contains(message, "another num_sms (132, now 114)"));
  CHECK(contains(message, "--journal"));
  CHECK(read_text(path) == before);
  for (const std::string text : {"my thesis\n", "my thesis", "{}\n", "[1]\n", "\n"}) {
    write_text(path, text);
    CHECK(contains(journal_refusal(path, kIdentity), "no journal of kiln tune"));
    CHECK(read_text(path) == text);
  }
  std::filesystem::remove(path);
  const TuneJournal held(path, kIdentity);
  CHECK(contains(journal_refusal(path, kIdentity), "another kiln tune writes this journal"));
  CHECK(contains(journal_refusal(dir.path() + "/no/such", kIdentity), "--journal"));
}

TEST_CASE("kernels are compiled once each, several at a time, and the wanted one goes first",
          "[tune]") {
  std::atomic<int> running = 0, most = 0;
  std::mutex mutex;
  std::vector<jit::GemmSpec> order;
  const auto make = [&] {
    return [&](const jit::GemmSpec& spec) {
      most = std::max<int>(most, ++running);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      --running;
      const std::lock_guard lock(mutex);
      order.push_back(spec);
      if (spec.tile.block_n == 24) throw Error(Status::kCompileFailed, "no");
      return CompileOutcome{spec.tile.block_n == 16 ? 12 : 0, ""};
    };
  };
  std::vector<jit::GemmSpec> specs;
  for (std::int32_t block_n = 8; block_n <= 160; block_n += 8) {
    jit::Tile tile;
    tile.block_n = block_n;
    specs.push_back(kernel_of(dense(512, 512), tile));
  }
  CompileAhead ahead(4, make);
  ahead.want(specs);
  ahead.want(specs);
  CHECK(ahead.get(specs.back()).error == "");
  {
    const std::lock_guard lock(mutex);
    CHECK(order.size() < specs.size() - 4);  // it did not wait for its turn
  }
  for (const jit::GemmSpec& spec : specs) ahead.get(spec);
  CHECK(ahead.compiled() == specs.size());
  CHECK(std::set(order.begin(), order.end()).size() == order.size());
  CHECK((most > 1 && most <= 4));

  FakeGpu gpu;
  CompilingMeasurer measurer(ahead, 0, gpu);
  CHECK(measurer.measure(dense(512, 512), 1, specs[0].tile, 2).usable());
  CHECK(contains(measurer.measure(dense(512, 512), 1, specs[1].tile, 2).error, "spills 12 bytes"));
  CHECK(measurer.measure(dense(512, 512), 1, specs[2].tile, 2).error == "no");
  CHECK(gpu.calls == 1);
}

TEST_CASE("kernels that nobody waits for any more are not compiled", "[tune]") {
  std::atomic<int> compiled = 0;
  {
    CompileAhead ahead(1, [&] {
      return [&](const jit::GemmSpec&) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        ++compiled;
        return CompileOutcome{};
      };
    });
    std::vector<jit::GemmSpec> specs;
    for (std::int32_t i = 1; i <= 1000; ++i) {
      jit::Tile tile;
      tile.raster_group = i;
      specs.push_back(kernel_of(dense(512, 512), tile));
    }
    ahead.want(specs);
    ahead.get(specs[0]);
    ahead.forget_waiting();
    CHECK(ahead.get(specs[999]).error == "");  // forgotten, wanted again
  }
  CHECK(compiled < 100);
}
