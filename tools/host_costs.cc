#include "tools/host_costs.h"

#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>

#include "tools/table.h"

namespace kiln::tools {
namespace {

constexpr int kLaunches = 200;
constexpr int kLaunchesInFlight = 50;  // a full queue would make the host wait for the GPU

class ScratchDirectory {
 public:
  ScratchDirectory() : path_(std::filesystem::temp_directory_path() / "kiln-bench-XXXXXX") {
    std::string name = path_;
    if (mkdtemp(name.data()) == nullptr) {
      throw Error(Status::kInternal, fmt::format("no directory {} can be made for a cache: {}",
                                                 name, std::strerror(errno)));
    }
    path_ = name;
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string path() const { return path_; }

 private:
  std::filesystem::path path_;
};

double elapsed_us(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
      .count();
}

// Of the cases whose kernel `count` says was really made (or found) by the call.
std::vector<double> prepare_all(const EngineHandle& engine, const std::vector<BenchCase>& cases,
                                std::uint64_t (runtime::Engine::*count)() const) {
  std::vector<double> times_us;
  for (const BenchCase& c : cases) {
    const std::int64_t m = make_workload(c.problem, c.sizing).plan_m;
    const kiln_problem problem = to_c(c.problem);
    PlanHandle plan;
    check(kiln_plan_create(engine.get(), &problem, nullptr, plan.out()));
    const std::uint64_t before = (engine.engine().*count)();
    const double us = elapsed_us([&] { check(kiln_plan_prepare(plan.get(), m, m)); });
    if ((engine.engine().*count)() > before) times_us.push_back(us);
  }
  return times_us;
}

double launch_us(Bench& bench, const runtime::Stream& stream, const BenchCase& c) {
  const auto prepared = bench.prepare(c);
  const BenchPlan plan = prepared->plan(c.tile);
  std::vector<double> times_us;
  for (int i = 0; i < kLaunches; ++i) {
    times_us.push_back(elapsed_us([&] { plan.launch(stream.get()); }));
    if ((i + 1) % kLaunchesInFlight == 0) stream.synchronize();
  }
  return summarize(std::move(times_us)).median_us;
}

std::string ms(double us) { return fmt::format("{:.3f}", us / 1e3); }

}  // namespace

HostCosts measure_host_costs(const kiln_engine_options& options,
                             const std::vector<BenchCase>& cases) {
  const ScratchDirectory cache;
  const std::string path = cache.path();
  kiln_engine_options own = options;
  own.cache_dir = path.c_str();
  HostCosts costs;
  {
    const EngineHandle engine(own);
    costs.cold_us = prepare_all(engine, cases, &runtime::Engine::compiles);
  }
  const EngineHandle engine(own);
  costs.disk_us = prepare_all(engine, cases, &runtime::Engine::hits);
  Bench bench(engine, {});
  const runtime::Stream stream(engine.engine().device());
  for (const BenchCase& c : cases) costs.launch_us.push_back(launch_us(bench, stream, c));
  return costs;
}

std::string host_costs_text(const HostCosts& costs) {
  Table table({{"host cost"},
               {"median ms", Align::kRight},
               {"p10", Align::kRight},
               {"p90", Align::kRight},
               {"samples", Align::kRight}});
  const auto add = [&](const char* what, const std::vector<double>& us) {
    if (us.empty()) {
      table.add({what, "-", "-", "-", "0"});
      return;
    }
    const Timing t = summarize(us);
    table.add({what, ms(t.median_us), ms(t.p10_us), ms(t.p90_us), fmt::to_string(t.samples)});
  };
  add("cold compile", costs.cold_us);
  add("disk hit", costs.disk_us);
  add("launch", costs.launch_us);
  return table.text();
}

nlohmann::ordered_json to_json(const HostCosts& costs) {
  const auto entry = [](const std::vector<double>& us) -> nlohmann::ordered_json {
    if (us.empty()) return nullptr;
    const Timing t = summarize(us);
    return {{"us", t.median_us}, {"p10_us", t.p10_us}, {"p90_us", t.p90_us},
            {"samples", t.samples}};
  };
  return {{"cold_compile", entry(costs.cold_us)},
          {"disk_hit", entry(costs.disk_us)},
          {"launch", entry(costs.launch_us)}};
}

}  // namespace kiln::tools
