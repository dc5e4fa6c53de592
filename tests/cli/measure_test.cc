// Times and what is made of them, without a GPU: quantiles, interleaving, speed-ups, output files.
#include "tools/measure.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "jit/error.h"
#include "tests/support/catch.h"
#include "tools/bench_report.h"
#include "tools/cupti.h"
#include "tools/output_file.h"

using namespace kiln;
using namespace kiln::tools;

namespace {

// A clock whose contestants take what they are told, and which drifts with every sample.
class FakeStopwatch final : public Stopwatch {
 public:
  FakeStopwatch(std::vector<double> times_us, double empty_us, double drift_us, int launches)
      : times_us_(std::move(times_us)),
        empty_us_(empty_us),
        drift_us_(drift_us),
        launches_(launches) {}

  std::size_t add(const Launch& launch) override {
    added_us_.push_back(launch != nullptr ? times_us_.at(added_us_.size()) : 0);
    return added_us_.size() - 1;
  }
  double sample_us(std::size_t index) override {
    order.push_back(index);
    return added_us_.at(index) * launches_ + empty_us_ + drift_us_ * static_cast<double>(taken_++);
  }
  int launches_per_sample() const override { return launches_; }
  void clear() override { added_us_.clear(); }

  std::vector<std::size_t> order;

 private:
  std::vector<double> times_us_, added_us_;
  double empty_us_, drift_us_;
  int launches_, taken_ = 0;
};

bool near(double x, double y) { return std::abs(x - y) < 1e-9; }

const Launch kNothing = [](CUstream) {};

BenchRow row_of(double us, const std::string& by, double reference_us) {
  BenchRow row;
  row.timing = summarize({us});
  row.references = {{by, reference_us, 0}};
  return row;
}

std::string content(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = std::filesystem::temp_directory_path() / "kiln-measure-XXXXXX";
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~ScratchFolder() { std::filesystem::remove_all(path); }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path), {}));
  }

  std::filesystem::path path;
};

}  // namespace

TEST_CASE("quantiles are interpolated between samples in any order", "[measure]") {
  const Timing timing = summarize({50, 10, 40, 20, 30});
  CHECK(timing.median_us == 30);
  CHECK(near(timing.p10_us, 14));
  CHECK(near(timing.p90_us, 46));
  CHECK(timing.best_us == 10);
  CHECK(timing.samples == 5);
  CHECK(near(timing.noise(), 16.0 / 30));
  CHECK(summarize({7}).p90_us == 7);
  CHECK(summarize({0, 0}).noise() == 0);
}

TEST_CASE("the empty interval is subtracted before dividing by the launches", "[measure]") {
  FakeStopwatch stopwatch({10, 20}, 5, 0, 4);
  const std::vector<Launch> both = {kNothing, kNothing};
  const Comparison result = compare(stopwatch, both, {9, 2});
  REQUIRE(result.timings.size() == 2);
  CHECK(result.empty_us == 5);
  CHECK(result.timings[0].median_us == 10);
  CHECK(result.timings[1].median_us == 20);
  CHECK(result.timings[1].samples == 9);
}

TEST_CASE("contestants take turns and every one begins equally often", "[measure]") {
  FakeStopwatch stopwatch({10, 10}, 0, 0.1, 1);
  const std::vector<Launch> both = {kNothing, kNothing};
  const Comparison result = compare(stopwatch, both, {30, 3});
  REQUIRE(stopwatch.order.size() == 33 * 3);
  std::vector<int> begins(3);
  for (std::size_t round = 0; round < 33; ++round) {
    ++begins[stopwatch.order[3 * round]];
    std::vector<int> seen(3);
    for (std::size_t i = 0; i < 3; ++i) ++seen[stopwatch.order[3 * round + i]];
    CHECK(seen == std::vector<int>{1, 1, 1});
  }
  CHECK(begins == std::vector<int>{11, 11, 11});
  // A drift of 10 us from the first sample to the last touches both alike.
  CHECK(std::abs(result.timings[0].median_us - result.timings[1].median_us) < 0.2);
}

TEST_CASE("a sample below the empty interval counts as 0", "[measure]") {
  FakeStopwatch stopwatch({-3}, 2, 0, 1);
  const std::vector<Launch> one = {kNothing};
  CHECK(compare(stopwatch, one, {5, 0}).timings[0].median_us == 0);
}

TEST_CASE("clocks and modes have names, and others are refused", "[measure]") {
  for (const L2Mode mode : {L2Mode::kFlush, L2Mode::kClean, L2Mode::kHot})
    CHECK(parse_l2_mode(name(mode), "--mode") == mode);
  CHECK(parse_clock("cupti", "--clock") == Clock::kCupti);
  CHECK_THROWS_AS(parse_clock("", "--clock"), Error);
  CHECK_THROWS_AS(parse_l2_mode("cold", "--mode"), Error);
}

TEST_CASE("mean speed-ups are geometric, by layout and over all", "[measure]") {
  std::vector<BenchRow> rows = {row_of(10, "peer", 20), row_of(10, "peer", 5),
                                row_of(10, "peer", 40)};
  rows[2].asked.problem.scaling = jit::Scaling::k1d1d;
  rows.push_back(row_of(0, "peer", 1000));  // swallowed by the empty interval: no rate, no ratio
  rows.emplace_back();                      // without a time
  MeanSpeedups means = mean_speedups(rows);
  CHECK(near(means["peer"]["dense"].mean, 1));
  CHECK(means["peer"]["dense"].rows == 2);
  CHECK(near(means["peer"]["dense 1d1d"].mean, 4));
  CHECK(near(means["peer"]["all"].mean, std::cbrt(4.0)));
  CHECK(means["peer"]["all"].rows == 3);
  CHECK(means.size() == 1);
}

TEST_CASE("an output file is the old one until it is the whole new one", "[output]") {
  const ScratchFolder folder;
  const auto path = folder.path / "out.json";
  std::ofstream(path) << "old";
  { const OutputFile abandoned(path, "--json"); }
  CHECK(content(path) == "old");
  CHECK(folder.files() == 1);
  {
    OutputFile file(path, "--json");
    CHECK(content(path) == "old");
    file.write("new");
    CHECK(content(path) == "new");
  }
  CHECK(folder.files() == 1);
}

TEST_CASE("an output file that cannot be written is refused at once", "[output]") {
  const ScratchFolder folder;
  for (const std::string& path :
       {folder.path.string(), (folder.path / "no" / "x").string(), std::string()}) {
    try {
      const OutputFile file(path, "--json");
      FAIL("accepted " + path);
    } catch (const Error& error) {
      CHECK(error.status() == Status::kInvalidArgument);
      CHECK(std::string(error.what()).find("--json") == 0);
    }
  }
}
