// What surrounds the search of `kiln tune`: its journal, compiling ahead, and the table at the end.
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>

#include "jit/error.h"
#include "tests/cli/tune_support.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"
#include "tools/tune_compile.h"
#include "tools/tune_journal.h"
#include "tools/tune_output.h"

using namespace kiln;
using namespace kiln::tools;
using namespace kiln::tools::test;

namespace {

std::string summary(const ProblemResult& result) {
  std::ostringstream out;
  out.precision(17);
  for (const ChosenTile& chosen : result.chosen)
    out << chosen.interval.m_min << ' ' << chosen.interval.m << ' ' << describe(chosen.chosen.tile)
        << ' ' << chosen.chosen.time_us << ' ' << chosen.loss << '\n';
  for (const IntervalResult& i : result.intervals)
    out << i.measured << ' ' << i.rejected.size() << ' ' << i.noise_us << '\n';
  return out.str();
}

const nlohmann::ordered_json kIdentity = {{"config", "c"}, {"gpu", "g"}, {"num_sms", 132}};

// The whole search over a journal.
ProblemResult tune(const std::string& journal_path, FakeGpu& gpu) {
  const TuneConfig config = parse_tune_config(
      config_text(R"({"max_candidates": 8})", R"({"final_rounds": 2, "max_kernels": 2})"), "t");
  TuneJournal journal(journal_path, kIdentity);
  gpu.first_call = journal.recorded();
  JournaledMeasurer measurer(journal, gpu);
  const jit::Problem problem = dense(4096, 2048);
  return search_problem(config, problem, tune_intervals(config.intervals, problem, {}), kTarget,
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
  for (std::size_t cut = 0; cut < whole.calls; cut += kiln::test::by_build(1, 9)) {
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

TEST_CASE("what is not the kernel's fault ends the run and is not in the journal", "[tune]") {
  const TempDir dir;
  TuneJournal journal(dir.path() + "/journal", kIdentity);
  const std::string before = read_text(dir.path() + "/journal");
  CompileAhead ahead(1, [] {
    return [](const jit::GemmSpec&) -> CompileOutcome {
      throw Error(Status::kNoCompiler, "no NVRTC");
    };
  });
  FakeGpu gpu;
  CompilingMeasurer compiling(ahead, 0, gpu);
  JournaledMeasurer measurer(journal, compiling);
  CHECK_THROWS_WITH(measurer.measure(dense(512, 512), 1, jit::Tile{}, 2), "no NVRTC");
  CHECK(read_text(dir.path() + "/journal") == before);
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

TEST_CASE("kernels that are expected next go before all that wait, in their order", "[tune]") {
  std::mutex mutex;
  std::vector<std::int32_t> order;
  CompileAhead ahead(1, [&] {
    return [&](const jit::GemmSpec& spec) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      const std::lock_guard lock(mutex);
      order.push_back(spec.tile.raster_group);
      return CompileOutcome{};
    };
  });
  std::vector<jit::Tile> tiles(40);
  std::vector<jit::GemmSpec> specs;
  for (std::int32_t i = 0; i < 40; ++i) {
    tiles[static_cast<std::size_t>(i)].raster_group = i + 1;
    specs.push_back(kernel_of(dense(512, 512), tiles[static_cast<std::size_t>(i)]));
  }
  ahead.want(specs);
  FakeGpu gpu;
  CompilingMeasurer measurer(ahead, 0, gpu);
  measurer.expect(dense(512, 512), {tiles[30], tiles[20]});
  ahead.get(specs[30]);
  ahead.get(specs[20]);
  const std::lock_guard lock(mutex);
  REQUIRE(order.size() >= 2);
  REQUIRE(order.size() <= 5);  // one or two had begun
  const auto at = std::find(order.begin(), order.end(), 31);
  REQUIRE(order.end() - at >= 2);
  CHECK(at[1] == 21);
}

TEST_CASE("a tile on which the driver fails ends the run and is passed over by the next",
          "[tune]") {
  const TempDir dir;
  const std::string path = dir.path() + "/journal";
  FakeGpu dying;
  jit::Tile victim;
  dying.damage = [&](const jit::Tile& tile, std::size_t call, TileMeasurement&) {
    if (call != 20) return;
    victim = tile;
    throw Error(Status::kDriverError, "an illegal memory access");
  };
  CHECK_THROWS_AS(tune(path, dying), Error);
  FakeGpu healthy;
  healthy.damage = [&](const jit::Tile& tile, std::size_t, TileMeasurement&) {
    if (tile == victim) throw Error(Status::kDriverError, "an illegal memory access");
  };
  const ProblemResult result = tune(path, healthy);
  CHECK(result.intervals.size() == 4);
  bool is_rejected = false;
  for (const IntervalResult& interval : result.intervals) {
    for (const RejectedTile& r : interval.rejected)
      is_rejected = is_rejected || contains(r.reason, "illegal memory access");
  }
  CHECK(is_rejected);
}

TEST_CASE("a tuning result becomes entries that a table takes and gives back", "[tune]") {
  const TempDir dir;
  FakeGpu gpu;
  const ProblemResult result = tune(dir.path() + "/journal", gpu);
  runtime::TunedFile file;
  file.gpu = "g";
  file.num_sms = 132;
  file.entries = {to_entry(result)};
  REQUIRE(file.entries[0].intervals.size() == result.chosen.size());
  const runtime::TunedFile back = parse_tuned_file(runtime::to_text(file), "t.json");
  CHECK(back == file);
  for (std::size_t i = 0; i < result.chosen.size(); ++i) {
    const runtime::TunedInterval& interval = back.entries[0].intervals[i];
    CHECK(interval.tile == result.chosen[i].chosen.tile);
    CHECK(is_near(interval.us, result.chosen[i].chosen.time_us, 0.0006));
    CHECK(interval.runner_up);
    CHECK(*interval.runner_up != interval.tile);
    CHECK(interval.noise_us > 0);
  }
  runtime::TunedFile bad = file;
  bad.entries[0].intervals[0].tile.stages = 32;
  try {
    parse_tuned_file(runtime::to_text(bad), "t.json");
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(contains(error.what(), "t.json: entries[0].intervals[0].tile"));
    CHECK(contains(error.what(), "1 of the entries"));
  }
}
