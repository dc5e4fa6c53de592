#include "tools/tune_gpu.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "cache/digest.h"
#include "jit/source.h"
#include "tools/bench.h"
#include "tools/measure.h"

namespace kiln::tools {
namespace {

// Of the tile, so that others can still be measured.
bool is_of_the_tile(Status status) {
  return status == Status::kCompileFailed || status == Status::kInvalidArgument ||
         status == Status::kUnsupported;
}

class GpuMeasurer final : public Measurer {
 public:
  explicit GpuMeasurer(const EngineHandle& engine)
      : bench_(engine, BenchOptions{}), stopwatch_(engine.engine().device(), L2Mode::kFlush) {}

  TileMeasurement measure(const jit::Problem& problem, std::int64_t m, const jit::Tile& tile,
                          int repeats) override {
    prepare(problem, m);
    TileMeasurement out;
    try {
      const BenchPlan plan = prepared_->plan(tile);
      const CheckResult check = prepared_->check(plan.launch);
      out.checked = check.passed;
      out.difference = check.difference;
      if (out.checked) time(plan.launch, repeats, out);
    } catch (const Error& error) {
      if (!is_of_the_tile(error.status())) throw;
      out.error = error.what();
    }
    stopwatch_.clear();
    return out;
  }

 private:
  void prepare(const jit::Problem& problem, std::int64_t m) {
    if (prepared_ && problem == problem_ && m == m_) return;
    prepared_.reset();  // two sets of operands need not fit
    problem_ = problem;
    m_ = m;
    BenchCase c;
    c.problem = problem;
    const bool by_group = problem.layout == jit::Layout::kGroupedContiguous;
    c.sizing.m = by_group ? std::max<std::int64_t>(1, m / problem.groups) : m;
    prepared_ = bench_.prepare(c);
  }

  void time(const Launch& launch, int repeats, TileMeasurement& out) {
    const std::size_t empty = stopwatch_.add(nullptr);
    const std::size_t kernel = stopwatch_.add(launch);
    std::vector<double> empty_us;
    stopwatch_.sample_us(kernel);  // the first replay uploads the graph
    for (int i = 0; i < repeats; ++i) {
      empty_us.push_back(stopwatch_.sample_us(empty));
      out.times_us.push_back(stopwatch_.sample_us(kernel));
    }
    const double offset = median(empty_us);
    for (double& us : out.times_us) us = std::max(0.0, us - offset);
  }

  Bench bench_;
  GraphStopwatch stopwatch_;
  jit::Problem problem_;
  std::int64_t m_ = -1;
  std::unique_ptr<PreparedCase> prepared_;
};

}  // namespace

std::unique_ptr<Measurer> make_gpu_measurer(const EngineHandle& engine) {
  return std::make_unique<GpuMeasurer>(engine);
}

TuneProvenance provenance_of(const EngineHandle& engine) {
  kiln_probe_report probe = KILN_PROBE_REPORT_INIT;
  check(kiln_probe(nullptr, &probe));
  TuneProvenance from;
  from.gpu = engine.engine().device().info().name;
  from.num_sms = engine.engine().num_sms();
  from.cuda = fmt::format("{}.{}", probe.compiler_major, probe.compiler_minor);
  from.driver = fmt::format("{}.{}", probe.driver_version / 1000, probe.driver_version % 1000 / 10);
  from.library =
      fmt::format("{}.{}.{}", KILN_VERSION_MAJOR, KILN_VERSION_MINOR, KILN_VERSION_PATCH);
  return from;
}

std::string templates_digest() {
  cache::KeyBuilder key("templates");
  for (const jit::TemplateFile& file : jit::template_files()) key.add(file.name, file.text);
  return cache::to_hex(key.digest());
}

}  // namespace kiln::tools
