#include "tools/tune_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "jit/error.h"
#include "tools/table.h"
#include "tools/text.h"
#include "tools/workload.h"

namespace kiln::tools {
namespace {

// Assumed for an H200 and its host: only compiling has been measured (0.27 s).
constexpr double kCompileSeconds = 0.35;       // of one kernel on one core
constexpr double kReadySeconds = 0.02;         // to load a kernel, check a result, capture a launch
constexpr double kReferencePerSecond = 1e12;   // multiply-adds of the plain kernel
constexpr double kFlushBytesPerSecond = 4e12;  // of clearing L2
constexpr double kReplaySeconds = 1e-4;        // of a graph, besides clearing and the kernel

double multiply_adds(const jit::Problem& p, std::int64_t m) {
  const double product =
      static_cast<double>(m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  const bool by_group =
      p.layout == jit::Layout::kGroupedMasked || p.layout == jit::Layout::kGroupedK;
  return by_group ? product * p.groups : product;
}

// What the search (tune_search.cc) does at most for one interval, where the tiles that the model
// has first are the fastest.
void add_interval(const TuneConfig& config, const jit::Problem& p, std::int64_t m,
                  const std::vector<Candidate>& list, TuneEstimate& seconds) {
  const TuneMeasuring& rules = config.measuring;
  const double draws = jit::has_row_groups(p) ? rules.draws : 1;
  double kernel_us = 0;
  for (const Candidate& c : list) kernel_us += c.estimate_us / static_cast<double>(list.size());
  const double sample =
      kReplaySeconds + rules.flush_mb * 1e6 / kFlushBytesPerSecond + kernel_us * 1e-6;
  std::vector<jit::Tile> tiles_of_list;
  for (const Candidate& c : list) tiles_of_list.push_back(c.tile);
  const double tiles =
      static_cast<double>(list.size() + refinements_of_best(config, p, m, tiles_of_list).size());
  // A probe and the rest, each with a replay that does not count.
  seconds.candidates += draws * tiles * (kReadySeconds + (rules.repeats + 2) * sample);
  seconds.finals +=
      draws * (rules.finalists + 1) * rules.final_rounds * (rules.final_repeats + 1) * sample;
  seconds.reference += draws * multiply_adds(p, m) / kReferencePerSecond;
  seconds.compile += tiles * kCompileSeconds;
}

// The candidates of all intervals in turn, so that those measured first are compiled first.
void plan_kernels(const TuneConfig& config, const TuneTarget& target, PlannedProblem& p) {
  std::vector<std::vector<Candidate>> lists;
  std::size_t longest = 0;
  for (const TuneInterval& interval : p.intervals) {
    lists.push_back(candidates(config, p.problem, interval.m, target));
    longest = std::max(longest, lists.back().size());
    p.candidates += lists.back().size();
    add_interval(config, p.problem, interval.m, lists.back(), p.seconds);
  }
  std::set<jit::Tile> seen;
  for (std::size_t rank = 0; rank < longest; ++rank) {
    for (const auto& list : lists) {
      if (rank < list.size() && seen.insert(list[rank].tile).second)
        p.kernels.push_back(kernel_of(p.problem, list[rank].tile));
    }
  }
}

}  // namespace

std::vector<PlannedProblem> plan_problems(const TuneConfig& config,
                                          const std::vector<NamedProblem>& problems,
                                          const TuneTarget& target, const Shard& part) {
  // 1. Each problem once, in the order of the file.
  std::vector<NamedProblem> distinct;
  for (NamedProblem named : problems) {
    named.problem = runtime::tuned_problem(named.problem);
    const auto same = std::find_if(distinct.begin(), distinct.end(), [&](const NamedProblem& d) {
      return d.problem == named.problem;
    });
    if (same == distinct.end()) {
      distinct.push_back(std::move(named));
    } else {
      same->m.insert(same->m.end(), named.m.begin(), named.m.end());
    }
  }
  // 2. This shard's.
  std::vector<PlannedProblem> plan;
  for (std::size_t i = 0; i < distinct.size(); ++i) {
    if (static_cast<std::int64_t>(i) % part.count != part.index - 1) continue;
    PlannedProblem p;
    p.name = distinct[i].name;
    p.problem = distinct[i].problem;
    try {
      jit::validate(p.problem);
      std::vector<std::int64_t> listed;
      for (const std::int64_t m : distinct[i].m) listed.push_back(mean_plan_m(p.problem, m));
      p.intervals = tune_intervals(config.intervals, p.problem, listed);
      plan_kernels(config, target, p);
    } catch (const Error& error) {
      p.error = error.what();
    }
    plan.push_back(std::move(p));
  }
  return plan;
}

nlohmann::ordered_json to_json(const std::vector<PlannedProblem>& plan) {
  auto list = nlohmann::ordered_json::array();
  for (const PlannedProblem& p : plan) {
    auto intervals = nlohmann::ordered_json::array();
    for (const TuneInterval& i : p.intervals)
      intervals.push_back({{"m_min", i.m_min}, {"m_max", i.m_max}, {"measured_m", i.m}});
    list.push_back({{"name", p.name},
                    {"problem", to_json(p.problem)},
                    {"intervals", intervals},
                    {"candidates", p.candidates},
                    {"kernels", p.kernels.size()},
                    {"measure_s", p.seconds.measure()},
                    {"error", p.error}});
  }
  return list;
}

std::string plan_text(const std::vector<PlannedProblem>& plan, std::int64_t jobs) {
  Table table({{"problem"},
               {"intervals", Align::kRight},
               {"candidates", Align::kRight},
               {"kernels", Align::kRight},
               {"measuring", Align::kRight}});
  std::string errors;
  for (const PlannedProblem& p : plan) {
    if (!p.error.empty()) errors += fmt::format("{}: {}\n", p.name, p.error);
    table.add({p.name, fmt::to_string(p.intervals.size()), fmt::to_string(p.candidates),
               fmt::to_string(p.kernels.size()), fmt::format("{:.1f} s", p.seconds.measure())});
  }
  return table.text() + errors + plan_summary(plan, jobs);
}

std::string plan_summary(const std::vector<PlannedProblem>& plan, std::int64_t jobs) {
  std::size_t intervals = 0, kernels = 0;
  TuneEstimate sum;
  for (const PlannedProblem& p : plan) {
    intervals += p.intervals.size();
    kernels += p.kernels.size();
    sum.compile += p.seconds.compile;
    sum.reference += p.seconds.reference;
    sum.candidates += p.seconds.candidates;
    sum.finals += p.seconds.finals;
  }
  return fmt::format(
      "{} problems, {} intervals of M, {} kernels and refinements of the best\n"
      "at most {:.0f} s to compile, {} at a time, while the GPU takes {:.0f} s: {:.0f} s for what "
      "results are checked against, {:.0f} s for candidates, {:.0f} s for finals\n",
      plan.size(), intervals, kernels, sum.compile / static_cast<double>(jobs), jobs, sum.measure(),
      sum.reference, sum.candidates, sum.finals);
}

}  // namespace kiln::tools
