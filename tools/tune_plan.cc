#include "tools/tune_plan.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>
#include <set>

#include "jit/error.h"
#include "tools/table.h"
#include "tools/text.h"
#include "tools/workload.h"

namespace kiln::tools {
namespace {

constexpr double kCompileSeconds = 1.3;  // of one kernel on one core
constexpr double kOverheadUs = 400;      // of one repeat: clearing L2, waiting

// The candidates of all intervals in turn, so that those measured first are compiled first.
void plan_kernels(const TuneConfig& config, const jit::Machine& machine, PlannedProblem& p) {
  std::vector<std::vector<Candidate>> lists;
  std::size_t longest = 0;
  for (const TuneInterval& interval : p.intervals) {
    lists.push_back(candidates(config, p.problem, interval.m, machine));
    longest = std::max(longest, lists.back().size());
    p.candidates += lists.back().size();
    for (const Candidate& c : lists.back())
      p.measure_s += (c.estimate_us + kOverheadUs) * config.measuring.repeats * 1e-6;
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

TuneShard parse_tune_shard(const std::string& text) {
  const std::size_t slash = text.find('/');
  std::optional<ParsedInteger> index, count;
  if (slash != std::string::npos) {
    index = parse_integer(std::string_view(text).substr(0, slash));
    count = parse_integer(std::string_view(text).substr(slash + 1));
  }
  constexpr std::int64_t kMaxShards = 10'000;
  const bool valid = index && count && !index->overflow && !count->overflow && index->value >= 1 &&
                     index->value <= count->value && count->value <= kMaxShards;
  if (!valid)
    throw Error(
        Status::kInvalidArgument,
        fmt::format("--shard must be I/N with 1 <= I <= N <= {}, got {}", kMaxShards, quote(text)));
  return {index->value, count->value};
}

std::vector<PlannedProblem> plan_problems(const TuneConfig& config,
                                          const std::vector<NamedProblem>& problems,
                                          const jit::Machine& machine, const TuneShard& part) {
  // 1. Each problem once, in the order of the file.
  std::vector<NamedProblem> distinct;
  for (NamedProblem named : problems) {
    if (named.problem.layout == jit::Layout::kGroupedContiguous)
      named.problem.alignment = static_cast<std::int32_t>(jit::kScaleBlock);
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
      plan_kernels(config, machine, p);
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
                    {"measure_s", p.measure_s},
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
  std::size_t kernels = 0;
  double measure_s = 0;
  std::string errors;
  for (const PlannedProblem& p : plan) {
    if (!p.error.empty()) errors += fmt::format("{}: {}\n", p.name, p.error);
    table.add({p.name, fmt::to_string(p.intervals.size()), fmt::to_string(p.candidates),
               fmt::to_string(p.kernels.size()), fmt::format("{:.1f} s", p.measure_s)});
    kernels += p.kernels.size();
    measure_s += p.measure_s;
  }
  return table.text() + errors +
         fmt::format(
             "at most {} kernels, about {:.0f} s to compile {} at a time, and {:.0f} s to "
             "measure; stopping early saves most of both\n",
             kernels, static_cast<double>(kernels) * kCompileSeconds / static_cast<double>(jobs),
             jobs, measure_s);
}

void write_file(const std::string& path, const std::string& text) {
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const std::string why = std::strerror(errno);
    std::remove(temporary.c_str());
    throw Error(Status::kInternal, fmt::format("{} cannot be written: {}", quote(path), why));
  }
}

}  // namespace kiln::tools
