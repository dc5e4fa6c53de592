// kiln explain: which tile a problem gets at some M, and why. Compiles nothing and needs no GPU.
#include <fmt/format.h>

#include <algorithm>

#include "runtime/tile_plan.h"
#include "tools/args.h"
#include "tools/commands.h"
#include "tools/problem_flags.h"
#include "tools/table.h"
#include "tools/text.h"
#include "tools/workload.h"

namespace kiln::tools {
namespace {

const Command& command() {
  static const Command command = [] {
    Command c{"explain", "say which tile a problem gets at some M, and why",
              "--m M --n N --k K [problem flags] --arch sm_90a --sms N [--json]", R"(
Prints the tile, the plan (every interval of M with its tile: the kernels that "kiln warm" makes),
whether a tuned table has the problem (exact), one like it (nearest) or neither (none), what the
default choice would have been, and the runners-up. Estimates rank tiles; the absolute time is
rough. The M that chooses the tile of a grouped_contiguous launch (plan_m) is its number of rows,
here of groups that all have the mean size; for grouped_masked it is the expected rows of a group.

JSON keys: problem, m, plan_m, arch, num_sms, tile, source (default, caller, exact, nearest),
reason, m_min, m_max, threads, smem_bytes, output_tiles, waves, estimate_us, rank, legal_tiles;
tuned: {match, why, us, measured_m, runner_up, runner_up_us}, of which the last four are there if
the tile is from a table and the very last two if that names them; default: {tile, estimate_us};
intervals: [{m_min, m_max, tile, source, threads, smem_bytes}]; alternatives: [{tile, estimate_us}],
best first.)",
              problem_flags()};
    for (const Flag& flag : target_flags()) c.flags.push_back(flag);
    c.flags.push_back({"--json", "", "print JSON"});
    return c;
  }();
  return command;
}

struct Alternative {
  jit::Tile tile;
  double estimate_us = 0;
};

struct Explanation {
  ProblemFlags asked;
  std::int64_t plan_m = 0;  // what chooses the tile
  Target target;
  kiln_plan_description chosen = KILN_PLAN_DESCRIPTION_INIT;
  std::int64_t output_tiles = 0;
  double waves = 0;      // output tiles per SM
  std::size_t rank = 1;  // among the legal tiles by estimate, from 1; equals share one
  std::size_t legal_tiles = 0;
  runtime::TunedLookup tuned;  // also where the tile is the caller's
  jit::Tile default_tile;      // what it would be without tables
  double default_us = 0;       // its estimate
  std::vector<runtime::PlannedTile> intervals;
  std::vector<Alternative> alternatives;  // best first, without the chosen tile

  jit::Tile tile() const { return from_c(chosen.full_tile); }
};

// What a launch would do, asked of the library itself.
kiln_plan_description describe_plan(const EngineHandle& engine, const ProblemFlags& asked,
                                    std::int64_t plan_m) {
  const kiln_problem problem = to_c(asked.problem);
  kiln_tile tile = KILN_TILE_INIT;
  if (asked.tile) tile = to_c(*asked.tile);
  PlanHandle plan;
  check(kiln_plan_create(engine.get(), &problem, asked.tile ? &tile : nullptr, plan.out()));
  kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
  check(kiln_plan_describe(plan.get(), plan_m, &description));
  return description;
}

// Tiles of D, all groups together; each has the mean size.
std::int64_t count_output_tiles(const jit::Problem& problem, std::int64_t m,
                                const jit::Tile& tile) {
  return problem.groups * jit::ceil_div(m, tile.block_m) * jit::ceil_div(problem.n, tile.block_n);
}

std::string_view name(runtime::TunedMatch match) {
  switch (match) {
    case runtime::TunedMatch::kExact:
      return "exact";
    case runtime::TunedMatch::kNearest:
      return "nearest";
    case runtime::TunedMatch::kNone:
      break;
  }
  return "none";
}

std::string_view name(runtime::TileSource source) {
  switch (source) {
    case runtime::TileSource::kCaller:
      return "caller";
    case runtime::TileSource::kTunedExact:
      return "exact";
    case runtime::TileSource::kTunedNearest:
      return "nearest";
    case runtime::TileSource::kDefault:
      break;
  }
  return "default";
}

// The measurement behind the tile, or null when it is from no table.
const runtime::TunedInterval* measurement(const Explanation& e) {
  const auto source = static_cast<runtime::TileSource>(e.chosen.source);
  if (source != runtime::TileSource::kTunedExact && source != runtime::TileSource::kTunedNearest)
    return nullptr;
  const runtime::TunedInterval* found = nullptr;
  for (const runtime::TunedInterval& interval : e.tuned.intervals) {
    if (interval.tile != e.tile()) continue;
    const bool serves = interval.m_min <= e.plan_m && e.plan_m <= interval.m_max;
    if (found == nullptr || serves) found = &interval;
  }
  return found;
}

// What the tables say, and what would be without them.
void look_up_tuned(const runtime::Engine& engine, Explanation& result) {
  const jit::Problem& problem = result.asked.problem;
  const jit::Machine machine = engine.machine();
  result.tuned = engine.tuned().find(problem, machine);
  for (const jit::TileInterval& interval : jit::plan_tiles(problem, machine)) {
    if (interval.m_min <= result.plan_m) result.default_tile = interval.tile;
  }
  result.default_us = jit::estimate_us(problem, result.default_tile, result.plan_m, machine);
  if (result.asked.tile) {
    result.intervals = {{{0, jit::kMaxM, *result.asked.tile}, runtime::TileSource::kCaller}};
  } else {
    result.intervals = runtime::plan_tiles(problem, machine, engine.tuned()).tiles;
  }
}

Explanation explain_problem(const ProblemFlags& asked, const Target& target) {
  Explanation result;
  result.asked = asked;
  result.target = target;
  result.plan_m = mean_plan_m(asked.problem, asked.m);
  kiln_engine_options options = offline_options(target.arch, target.num_sms);
  options.cache_dir = "";
  const EngineHandle engine(options);
  result.chosen = describe_plan(engine, asked, result.plan_m);
  look_up_tuned(engine.engine(), result);
  const jit::Machine machine{target.num_sms};
  const jit::Tile tile = result.tile();
  result.output_tiles = count_output_tiles(asked.problem, asked.m, tile);
  result.waves = static_cast<double>(result.output_tiles) / target.num_sms;
  for (const jit::Tile& other : jit::legal_tiles(asked.problem)) {
    if (other == tile) continue;
    result.alternatives.push_back(
        {other, jit::estimate_us(asked.problem, other, result.plan_m, machine)});
    if (result.alternatives.back().estimate_us < result.chosen.estimate_us) ++result.rank;
  }
  result.legal_tiles = result.alternatives.size() + 1;
  constexpr std::size_t kMostAlternatives = 8;
  std::stable_sort(
      result.alternatives.begin(), result.alternatives.end(),
      [](const Alternative& a, const Alternative& b) { return a.estimate_us < b.estimate_us; });
  if (result.alternatives.size() > kMostAlternatives) result.alternatives.resize(kMostAlternatives);
  return result;
}

nlohmann::ordered_json to_json(const Explanation& e) {
  auto intervals = nlohmann::ordered_json::array();
  for (const auto& [interval, source] : e.intervals) {
    intervals.push_back({{"m_min", interval.m_min},
                         {"m_max", interval.m_max},
                         {"tile", jit::describe(interval.tile)},
                         {"source", name(source)},
                         {"threads", jit::threads(interval.tile)},
                         {"smem_bytes", jit::smem_bytes(interval.tile, e.asked.problem)}});
  }
  auto alternatives = nlohmann::ordered_json::array();
  for (const Alternative& alternative : e.alternatives) {
    alternatives.push_back(
        {{"tile", jit::describe(alternative.tile)}, {"estimate_us", alternative.estimate_us}});
  }
  nlohmann::ordered_json tuned = {{"match", name(e.tuned.match)}, {"why", e.tuned.why}};
  if (const runtime::TunedInterval* measured = measurement(e)) {
    tuned["us"] = measured->us;
    tuned["measured_m"] = measured->measured_m;
    if (measured->runner_up) {
      tuned["runner_up"] = jit::describe(*measured->runner_up);
      tuned["runner_up_us"] = measured->runner_up_us;
    }
  }
  return {{"problem", tools::to_json(e.asked.problem)},
          {"m", e.asked.m},
          {"plan_m", e.plan_m},
          {"arch", jit::name(e.target.arch)},
          {"num_sms", e.target.num_sms},
          {"tile", jit::describe(e.tile())},
          {"source", name(static_cast<runtime::TileSource>(e.chosen.source))},
          {"reason", e.chosen.reason},
          {"m_min", e.chosen.m_min},
          {"m_max", e.chosen.m_max},
          {"threads", e.chosen.threads},
          {"smem_bytes", e.chosen.dynamic_smem_bytes},
          {"output_tiles", e.output_tiles},
          {"waves", e.waves},
          {"estimate_us", e.chosen.estimate_us},
          {"rank", e.rank},
          {"legal_tiles", e.legal_tiles},
          {"tuned", tuned},
          {"default", {{"tile", jit::describe(e.default_tile)}, {"estimate_us", e.default_us}}},
          {"intervals", intervals},
          {"alternatives", alternatives}};
}

std::string m_text(const Explanation& e) {
  switch (e.asked.problem.layout) {
    case jit::Layout::kGroupedContiguous:
      return fmt::format("{}: {} groups of {} rows, aligned to {}", e.plan_m,
                         e.asked.problem.groups, e.asked.m, e.asked.problem.alignment);
    case jit::Layout::kGroupedMasked:
      return fmt::format("{} expected rows of a group", e.plan_m);
    case jit::Layout::kDense:
    case jit::Layout::kGroupedK:
      break;
  }
  return fmt::to_string(e.plan_m);
}

void print_text(const Explanation& e) {
  const jit::Tile tile = e.tile();
  print(fmt::format("problem   {}\nM         {}\ntarget    {}, {} SMs\n",
                    jit::describe(e.asked.problem), m_text(e), jit::name(e.target.arch),
                    e.target.num_sms));
  print(fmt::format("tile      {}, for M {}\nwhy       {}\n", jit::describe(tile),
                    human_interval(e.chosen.m_min, e.chosen.m_max), e.chosen.reason));
  print(fmt::format("launch    {} threads, {} of shared memory\n", e.chosen.threads,
                    human_bytes(static_cast<std::uint64_t>(e.chosen.dynamic_smem_bytes))));
  print(fmt::format("work      {} tiles of {}x{} = {:.2f} per SM\n", e.output_tiles, tile.block_m,
                    tile.block_n, e.waves));
  const bool found =
      e.tuned.match != runtime::TunedMatch::kNone;  // then `why` begins with how well
  print(fmt::format("tuned     {}{}\n", found ? "" : "none: ", e.tuned.why));
  if (const runtime::TunedInterval* measured = measurement(e)) {
    print(fmt::format("measured  {:.2f} us at M {}", measured->us, measured->measured_m));
    if (measured->runner_up)
      print(fmt::format("; next {}, {:.2f} us", jit::describe(*measured->runner_up),
                        measured->runner_up_us));
    print("\n");
  }
  print(fmt::format("default   {}, estimated at {:.1f} us\n", jit::describe(e.default_tile),
                    e.default_us));
  // One tile serves an interval, so it need not be the best at every M of it.
  print(fmt::format("estimate  {:.1f} us, rank {} of {} legal tiles at this M\n",
                    e.chosen.estimate_us, e.rank, e.legal_tiles));

  print("\nplan (> serves this M):\n");
  Table plan(
      {{""}, {"M"}, {"tile"}, {"from"}, {"threads", Align::kRight}, {"smem", Align::kRight}});
  for (const auto& [interval, source] : e.intervals) {
    const bool serves = interval.m_min <= e.plan_m && e.plan_m <= interval.m_max;
    plan.add(
        {serves ? ">" : "", human_interval(interval.m_min, interval.m_max),
         jit::describe(interval.tile), std::string(name(source)),
         fmt::to_string(jit::threads(interval.tile)),
         human_bytes(static_cast<std::uint64_t>(jit::smem_bytes(interval.tile, e.asked.problem)))});
  }
  print(plan.text());

  print(fmt::format("\nother tiles at M = {}:\n", e.plan_m));
  Table others({{"tile"}, {"estimate", Align::kRight}});
  for (const Alternative& alternative : e.alternatives) {
    others.add(
        {jit::describe(alternative.tile), fmt::format("{:.1f} us", alternative.estimate_us)});
  }
  print(others.text());
}

}  // namespace

int explain(Words words) {
  const Args args(command(), words);
  if (args.wants_help()) {
    print(help_text(command()));
    return kExitOk;
  }
  const ProblemFlags asked = read_problem_flags(args);
  const Explanation explanation = explain_problem(asked, read_target(args));
  if (args.has("--json")) {
    print_json(to_json(explanation));
  } else {
    print_text(explanation);
  }
  return kExitOk;
}

}  // namespace kiln::tools
