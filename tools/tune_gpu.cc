#include "tools/tune_gpu.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <vector>

#include "jit/error.h"
#include "tools/bench.h"
#include "tools/measure.h"

namespace kiln::tools {
namespace {

// Of the tile, so that others can still be measured.
bool is_of_the_tile(Status status) {
  return status == Status::kCompileFailed || status == Status::kInvalidArgument ||
         status == Status::kUnsupported;
}

BenchOptions bench_options() {
  BenchOptions options;
  options.keep_result = true;
  return options;
}

class GpuMeasurer final : public Measurer {
 public:
  GpuMeasurer(const EngineHandle& engine, const TuneMeasuring& rules)
      : device_(engine.engine().device()),
        rules_(rules),
        bench_(engine, bench_options()),
        stopwatch_(device_, L2Mode::kFlush, nullptr,
                   static_cast<std::size_t>(rules.flush_mb) * 1'000'000) {}

  TileMeasurement measure(const jit::Problem& problem, std::int64_t m, const jit::Tile& tile,
                          int repeats) override {
    prepare(problem, m);
    const Contestant& contestant = contestant_of(tile);
    TileMeasurement out;
    out.checked = contestant.checked;
    out.difference = contestant.difference;
    out.error = contestant.error;
    if (out.error.empty() && out.checked) time(contestant, repeats, out);
    return out;
  }

 private:
  // A tile at the M that is prepared: its launches on each draw, captured, or what is wrong with
  // it.
  struct Contestant {
    std::vector<std::size_t> numbers;  // of the stopwatch
    bool checked = false;
    double difference = 0;
    std::string error;
  };

  void prepare(const jit::Problem& problem, std::int64_t m) {
    if (!draws_.empty() && problem == problem_ && m == m_) return;
    stopwatch_.clear();
    contestants_.clear();
    draws_.clear();  // two sets of operands need not fit
    problem_ = problem;
    m_ = m;
    BenchCase c;
    c.problem = problem;
    const bool by_group = problem.layout == jit::Layout::kGroupedContiguous;
    c.sizing.m = by_group ? std::max<std::int64_t>(1, m / problem.groups) : m;
    const int count = jit::has_row_groups(problem) ? rules_.draws : 1;
    std::vector<std::unique_ptr<PreparedCase>> draws;
    const std::int64_t mean = c.sizing.m;
    for (int i = 0; i < count; ++i) {
      // What callers expect of masked groups is the mean, or for safety a fifth more.
      const bool exceeds_mean = problem.layout == jit::Layout::kGroupedMasked && i % 2 == 1;
      c.sizing.m = exceeds_mean ? std::max<std::int64_t>(1, mean * 5 / 6) : mean;
      c.sizing.seed = static_cast<std::uint64_t>(i) + 1;
      draws.push_back(bench_.prepare(c));
    }
    empty_us_ = time_empty();
    draws_ = std::move(draws);
  }

  double time_empty() {
    constexpr int kSamples = 9;
    const std::size_t number = stopwatch_.add(nullptr);
    stopwatch_.sample_us(number);  // the first replay of a graph uploads it
    std::vector<double> samples_us;
    for (int i = 0; i < kSamples; ++i) samples_us.push_back(stopwatch_.sample_us(number));
    return median(std::move(samples_us));
  }

  const Contestant& contestant_of(const jit::Tile& tile) {
    const auto found = contestants_.find(tile);
    if (found != contestants_.end()) return found->second;
    Contestant contestant;
    try {
      ready(tile, contestant);
    } catch (const Error& error) {
      const bool launch_refused = error.status() == Status::kDriverError && is_usable();
      if (!is_of_the_tile(error.status()) && !launch_refused) throw;
      contestant.error = error.what();
    }
    return contestants_.emplace(tile, std::move(contestant)).first->second;
  }

  void ready(const jit::Tile& tile, Contestant& contestant) {
    for (const auto& draw : draws_) {
      const BenchPlan plan = draw->plan(tile);
      const CheckResult check = draw->check(plan.launch);
      contestant.checked = check.passed;
      contestant.difference = std::max(contestant.difference, check.difference);
      if (!check.passed) return;
      contestant.numbers.push_back(stopwatch_.add(plan.launch));
    }
  }

  // After a kernel that failed while it ran, every call fails; after a launch that was refused,
  // none.
  bool is_usable() const {
    try {
      runtime::DeviceBuffer::of(device_, std::vector<int>(1));
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  // A repeat is the mean over the draws. The first replays do not count: they upload the graphs,
  // and the GPU may have been idle for a while.
  void time(const Contestant& contestant, int repeats, TileMeasurement& out) {
    for (int i = -1; i < repeats; ++i) {
      double sum_us = 0;
      for (const std::size_t number : contestant.numbers)
        sum_us += std::max(0.0, stopwatch_.sample_us(number) - empty_us_);
      if (i >= 0) out.times_us.push_back(sum_us / static_cast<double>(contestant.numbers.size()));
    }
  }

  const runtime::Device& device_;
  TuneMeasuring rules_;
  Bench bench_;
  GraphStopwatch stopwatch_;
  jit::Problem problem_;
  std::int64_t m_ = -1;
  std::vector<std::unique_ptr<PreparedCase>> draws_;  // of problem_ at m_; none before the first
  double empty_us_ = 0;
  std::map<jit::Tile, Contestant> contestants_;
};

}  // namespace

std::unique_ptr<Measurer> make_gpu_measurer(const EngineHandle& engine,
                                            const TuneMeasuring& rules) {
  return std::make_unique<GpuMeasurer>(engine, rules);
}

runtime::TunedFile empty_table(const EngineHandle& engine) {
  kiln_probe_report probe = KILN_PROBE_REPORT_INIT;
  check(kiln_probe(nullptr, &probe));
  runtime::TunedFile table;
  table.gpu = engine.engine().device().info().name;
  table.num_sms = engine.engine().num_sms();
  table.cuda = fmt::format("{}.{}", probe.compiler_major, probe.compiler_minor);
  table.driver =
      fmt::format("{}.{}", probe.driver_version / 1000, probe.driver_version % 1000 / 10);
  table.library =
      fmt::format("{}.{}.{}", KILN_VERSION_MAJOR, KILN_VERSION_MINOR, KILN_VERSION_PATCH);
  return table;
}

}  // namespace kiln::tools
