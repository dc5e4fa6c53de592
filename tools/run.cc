// kiln run: problems on the GPU of this machine, checked and timed.
#include <fmt/format.h>

#include "runtime/options.h"
#include "tools/args.h"
#include "tools/bench.h"
#include "tools/cache_directory.h"
#include "tools/commands.h"
#include "tools/gpu.h"
#include "tools/problem_flags.h"
#include "tools/sim/host_compiler.h"
#include "tools/table.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

const Command& command() {
  static const Command command = [] {
    Command c{"run", "run problems on the GPU, or a simulated one; check and time them",
              "(--m M --n N --k K [problem flags] | --shapes FILE) [--check] [flags]", R"(
Operands are random and roughly normal, made and cast to FP8 on the GPU. Each timed launch follows a
write of 512 MiB, so that it finds nothing in L2; us is the median. The roofline is the larger of
FLOPs at the peak rate and bytes at the peak bandwidth, both from the clocks that the GPU reports: a
bound that sustained clocks do not reach. --check compares D with a plain FP32/FP64 kernel:
1 - 2<x,y>/(<x,x>+<y,y>) must stay below 0.001.

--device sim runs the same kernels, compiled with the host's C++ compiler, on a functional model of
a Hopper GPU: it needs no GPU, gives no times, always checks, and takes small problems only (up to
2^31 multiply-adds). Each problem is launched --schedules times; in which order things happen is
drawn anew for each, and a kernel that breaks a rule of the hardware is stopped with what it did
where. Its kernels are kept beside the cache directory, in one with "-sim" at the end of its name.

The groups of a grouped layout get sizes drawn from --seed. --skew uniform: 0.7 to 1.3 times the
mean; zipf: in proportion to 1, 1/2, 1/3, ... in a random order, the last quarter of them empty, with
a total of groups times the mean. grouped_k rounds each K up to 128. FLOPs and bytes count the
rows of groups only, not padding. --check looks at every group, and at rows of no group, which must
not have been written; before the launch those are NaN in A, in its scales and in D.

JSON keys: device, num_sms, peak_tflops, peak_gb_per_s; results: a list of {name, problem, m,
skew, group_sizes, launch_m, launch_k (these four of grouped layouts), tile, reason, registers,
smem_bytes, spill_bytes, us, best_us, repeat, tflops, gb_per_s, roofline_us, roofline_percent,
check: null or {difference, max_abs_error, stray_rows, passed}, error}. With --device sim those of time are null.

Exit codes: 0 all ran (and passed); 1 a check or a problem failed; 2 usage or a bad file; 3 no
usable GPU; 4 KILN_NO_COMPILE is set and a kernel is not in the cache.)",
              problem_flags()};
    c.flags.push_back({"--max-m", "M",
                       "grouped_masked: rows allocated for each group (default: the next multiple "
                       "of 128 that holds any draw)"});
    c.flags.push_back({"--skew", "SKEW", "sizes of the groups: uniform (default) or zipf"});
    c.flags.push_back({"--shapes", "FILE", "every problem of this file at its m values"});
    c.flags.push_back({"--repeat", "R", "timed launches of each (default 30)"});
    c.flags.push_back({"--check", "", "compare the result with a plain kernel"});
    c.flags.push_back({"--seed", "S", "of the random operands and group sizes (default 1)"});
    c.flags.push_back({"--sms", "N", "use at most so many SMs (default: all)"});
    c.flags.push_back(
        {"--device", "D", "the GPU, by its CUDA ordinal (default: the first Hopper GPU), or sim"});
    c.flags.push_back(
        {"--schedules", "N", "with --device sim: launches of each, all different (default 3)"});
    c.flags.push_back(kCacheFlag);
    c.flags.push_back({"--json", "", "print JSON"});
    return c;
  }();
  return command;
}

BenchCase read_case(const Args& args, Sizing sizing) {
  const ProblemFlags asked = read_problem_flags(args);
  const jit::Layout layout = asked.problem.layout;
  require_layout(args, "--max-m", layout == jit::Layout::kGroupedMasked, "grouped_masked", layout);
  require_layout(args, "--skew", jit::is_grouped(asked.problem), "the grouped layouts", layout);
  sizing.m = asked.m;
  sizing.max_m = args.integer("--max-m", 1, jit::kMaxM, 0);
  make_workload(asked.problem, sizing);  // sizes that cannot be are a wrong command line
  return {"", asked.problem, sizing, asked.tile};
}

std::vector<BenchCase> read_cases(const Args& args, std::uint64_t seed) {
  Sizing sizing;
  sizing.seed = seed;
  sizing.skew = parse_skew(args.text("--skew", "uniform"), "--skew");
  if (!args.has("--shapes")) return {read_case(args, sizing)};
  for (const Flag& flag : problem_flags()) {
    if (flag.name == "--tile") continue;
    args.exclude("--shapes", flag.name, "the file says what the problems are");
  }
  args.exclude("--shapes", "--max-m", "the file says what the problems are");
  const std::optional<jit::Tile> tile = read_tile(args);
  std::vector<BenchCase> cases;
  const ShapesFile shapes = load_shapes(args.required_text("--shapes"));
  for (const NamedProblem& p : shapes.problems) {
    for (const std::int64_t m : p.m) {
      sizing.m = m;
      cases.push_back({p.name, p.problem, sizing, tile});
    }
  }
  return cases;
}

struct Outcome {
  BenchResult result;
  Status status = Status::kOk;
  std::string error;  // "" when it ran

  bool passed() const { return error.empty() && (!result.check || result.check->passed); }
};

Outcome run_case(Bench& bench, const BenchCase& c) {
  try {
    return {bench.run(c), Status::kOk, ""};
  } catch (const Error& error) {
    return {{}, error.status(), error.what()};
  }
}

nlohmann::ordered_json check_json(const Outcome& outcome) {
  if (!outcome.result.check) return nullptr;
  const CheckResult& check = *outcome.result.check;
  return {{"difference", check.difference},
          {"max_abs_error", check.max_abs_error},
          {"stray_rows", check.stray_rows},
          {"passed", check.passed}};
}

void add_groups(const Workload& workload, nlohmann::ordered_json& out) {
  auto sizes = nlohmann::ordered_json::array();
  for (const Range& group : workload.groups) sizes.push_back(group.size());
  out.update({{"group_sizes", sizes}, {"launch_m", workload.m}, {"launch_k", workload.k}});
}

nlohmann::ordered_json to_json(const BenchCase& c, const Outcome& outcome, int repeat) {
  const BenchResult& r = outcome.result;
  nlohmann::ordered_json out = {
      {"name", c.name}, {"problem", tools::to_json(c.problem)}, {"m", c.sizing.m}};
  if (jit::is_grouped(c.problem)) out["skew"] = name(c.sizing.skew);
  if (outcome.error.empty()) {
    if (jit::is_grouped(c.problem)) add_groups(r.workload, out);
    out.update({{"tile", jit::describe(from_c(r.plan.full_tile))},
                {"reason", r.plan.reason},
                {"registers", r.plan.registers},
                {"smem_bytes", r.plan.dynamic_smem_bytes},
                {"spill_bytes", r.plan.spill_bytes}});
    if (r.median_us > 0) {
      out.update({{"us", r.median_us},
                  {"best_us", r.best_us},
                  {"repeat", repeat},
                  {"tflops", r.tflops()},
                  {"gb_per_s", r.gb_per_s()},
                  {"roofline_us", r.roofline_us},
                  {"roofline_percent", r.roofline_percent()}});
    } else {
      for (const char* key :
           {"us", "best_us", "repeat", "tflops", "gb_per_s", "roofline_us", "roofline_percent"})
        out[key] = nullptr;
    }
  }
  out["check"] = check_json(outcome);
  out["error"] = outcome.error;
  return out;
}

const std::vector<Column>& columns() {
  static const std::vector<Column> columns = {{"problem"},
                                              {"G", Align::kRight},
                                              {"M", Align::kRight},
                                              {"N", Align::kRight},
                                              {"K", Align::kRight},
                                              {"tile"},
                                              {"us", Align::kRight},
                                              {"TFLOPS", Align::kRight},
                                              {"GB/s", Align::kRight},
                                              {"roofline us", Align::kRight},
                                              {"of roofline", Align::kRight},
                                              {"check"}};
  return columns;
}

std::string check_cell(const std::optional<CheckResult>& check) {
  if (!check) return "-";
  if (check->passed) return fmt::format("ok {:.1e}", check->difference);
  if (check->stray_rows > 0) return fmt::format("WRONG, {} stray rows", check->stray_rows);
  return fmt::format("WRONG {:.1e}", check->difference);
}

std::vector<std::string> cells(const BenchCase& c, const Outcome& outcome) {
  std::vector<std::string> row = {
      c.name.empty() ? std::string(jit::name(c.problem.layout)) : c.name,
      jit::is_grouped(c.problem) ? fmt::to_string(c.problem.groups) : "-",
      fmt::to_string(c.sizing.m), fmt::to_string(c.problem.n), fmt::to_string(c.problem.k)};
  if (!outcome.error.empty()) {
    row.resize(columns().size() - 1, "-");
    row.emplace_back("FAILED");
    return row;
  }
  const BenchResult& r = outcome.result;
  row.push_back(jit::describe(from_c(r.plan.full_tile)));
  if (r.median_us > 0) {
    row.push_back(fmt::format("{:.2f}", r.median_us));
    row.push_back(fmt::format("{:.1f}", r.tflops()));
    row.push_back(fmt::format("{:.0f}", r.gb_per_s()));
    row.push_back(fmt::format("{:.2f}", r.roofline_us));
    row.push_back(fmt::format("{:.1f} %", r.roofline_percent()));
  } else {
    row.resize(columns().size() - 1, "-");
  }
  row.push_back(check_cell(r.check));
  return row;
}

// The widest that each cell can get, so that rows can be printed as they come.
std::vector<std::string> widest_cells(const std::vector<BenchCase>& cases) {
  std::vector<std::string> widest = {
      "",          "",       "",      "",          "",        "256x256/2x1/s16/c2x1/r16",
      "123456.78", "1234.5", "12345", "123456.78", "100.0 %", "ok 1.0e-05"};
  for (const BenchCase& c : cases) {
    const std::vector<std::string> row = cells(c, {{}, Status::kInternal, "not run"});
    for (std::size_t i = 0; i < 5; ++i) {
      if (row[i].size() > widest[i].size()) widest[i] = row[i];
    }
  }
  return widest;
}

// The worst of what happened: a failure, then a kernel that may not be compiled.
ExitCode exit_of(const std::vector<Outcome>& outcomes) {
  ExitCode code = kExitOk;
  for (const Outcome& outcome : outcomes) {
    if (outcome.passed()) continue;
    if (outcome.status != Status::kFrozen) return kExitFailure;
    code = kExitMiss;
  }
  return code;
}

// Runs the cases one after the other and says how each went: as rows of a table while it goes on,
// or as JSON at the end.
class Session {
 public:
  Session(Bench& bench, const std::vector<BenchCase>& cases, const BenchOptions& options, bool json)
      : bench_(bench),
        cases_(cases),
        repeat_(options.repeat),
        has_times_(options.has_times),
        json_(json),
        widest_(widest_cells(cases)) {}

  ExitCode run(const std::string& device, int num_sms) {
    const Peak& peak = bench_.peak();
    if (!json_) {
      const std::string peaks =
          has_times_ ? fmt::format("peak {:.0f} TFLOPS, {:.0f} GB/s", peak.tflops, peak.gb_per_s)
                     : "results alone, no times";
      print(fmt::format("{}, {} SMs; {}\n{}", device, num_sms, peaks, table_.header(widest_)));
    }
    for (const BenchCase& c : cases_) run_one(c);
    if (json_) {
      print_json({{"device", device},
                  {"num_sms", num_sms},
                  {"peak_tflops", has_times_ ? nlohmann::ordered_json(peak.tflops) : nullptr},
                  {"peak_gb_per_s", has_times_ ? nlohmann::ordered_json(peak.gb_per_s) : nullptr},
                  {"results", results_}});
    }
    return exit_of(outcomes_);
  }

 private:
  void run_one(const BenchCase& c) {
    const Outcome outcome = run_case(bench_, c);
    if (!outcome.error.empty()) {
      print_error(fmt::format("kiln run: {} M = {}: {}\n",
                              c.name.empty() ? jit::describe(c.problem) : c.name, c.sizing.m,
                              outcome.error));
    }
    if (json_) {
      results_.push_back(to_json(c, outcome, repeat_));
    } else {
      print(table_.line(widest_, cells(c, outcome)));
      std::fflush(stdout);
    }
    outcomes_.push_back(outcome);
  }

  Bench& bench_;
  const std::vector<BenchCase>& cases_;
  int repeat_;
  bool has_times_;
  bool json_;
  Table table_{columns()};
  std::vector<std::string> widest_;
  std::vector<Outcome> outcomes_;
  nlohmann::ordered_json results_ = nlohmann::ordered_json::array();
};

}  // namespace

namespace {

constexpr std::string_view kSimulated = "sim";

// Up to half a minute on one core.
constexpr double kMostSimulatedFlops = 2.0 * (std::int64_t{1} << 31);

int run_all(const Args& args, const EngineHandle& engine, const std::vector<BenchCase>& cases,
            const BenchOptions& options) {
  Bench bench(engine, options);
  Session session(bench, cases, options, args.has("--json"));
  return session.run(engine.engine().device().info().name, engine.engine().num_sms());
}

int run_simulated(const Args& args, const std::vector<BenchCase>& cases, BenchOptions options,
                  kiln_engine_options engine_options) {
  if (args.has("--repeat"))
    throw Error(Status::kInvalidArgument,
                "--repeat belongs to a GPU, the simulator has no times: use --schedules");
  const std::string cache_dir = cache_directory(args);
  const std::string sim_dir = cache_dir.empty() ? cache_dir : cache_dir + "-sim";
  engine_options.cache_dir = sim_dir.c_str();
  engine_options.cache_path = "";
  engine_options.device = 0;
  options.check = options.keep_result = true;
  options.has_times = false;
  options.most_flops = kMostSimulatedFlops;
  options.checks = static_cast<int>(args.integer("--schedules", 1, 1'000'000, 3));
  const runtime::EngineHooks hooks = sim::simulator_hooks();
  sim::Control& control = sim::control(hooks.driver_library);
  options.before_check = [&control, seed = options.seed](int i) {
    control.seed = seed + static_cast<std::uint64_t>(i);
  };
  return run_all(args, EngineHandle(engine_options, hooks), cases, options);
}

}  // namespace

int run(Words words) {
  const Args args(command(), words);
  if (args.wants_help()) {
    print(help_text(command()));
    return kExitOk;
  }
  BenchOptions options;
  options.repeat = static_cast<int>(args.integer("--repeat", 1, 100'000, options.repeat));
  options.check = args.has("--check");
  options.seed = static_cast<std::uint64_t>(args.integer("--seed", 0, INT64_MAX, 1));
  const std::vector<BenchCase> cases = read_cases(args, options.seed);
  kiln_engine_options engine_options = KILN_ENGINE_OPTIONS_INIT;
  engine_options.num_sms = static_cast<std::int32_t>(args.integer("--sms", 1, 1024, 0));
  if (args.text("--device", "") == kSimulated)
    return run_simulated(args, cases, options, engine_options);
  if (args.has("--schedules"))
    throw Error(Status::kInvalidArgument,
                "--schedules belongs to --device sim: leave it out, or run on the simulator");
  const std::string cache_dir = cache_directory(args);
  engine_options.cache_dir = cache_dir.c_str();
  const std::optional<std::int64_t> device = args.integer("--device", 0, 1023);
  engine_options.device =
      find_device(device);  // last: a wrong command line is wrong without a GPU too
  return run_all(args, open_engine(engine_options), cases, options);
}

}  // namespace kiln::tools
