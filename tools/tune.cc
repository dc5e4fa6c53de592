// kiln tune: which tile is fastest for each problem and M, by measurement.
//
// A dry run needs no GPU: it shows what would be measured and, when asked to, compiles it.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <memory>
#include <optional>
#include <utility>

#include "cache/digest.h"
#include "tools/args.h"
#include "tools/cache_directory.h"
#include "tools/commands.h"
#include "tools/gpu.h"
#include "tools/output_file.h"
#include "tools/progress.h"
#include "tools/strict_json.h"
#include "tools/text.h"
#include "tools/tune_compile.h"
#include "tools/tune_gpu.h"
#include "tools/tune_journal.h"
#include "tools/tune_merge.h"
#include "tools/tune_output.h"
#include "tools/tune_plan.h"
#include "tools/work_share.h"
#include "tools/worker_pool.h"
#include "tools/worker_protocol.h"

namespace kiln::tools {
namespace {

const Command kCommand{
    "tune",
    "measure which tiles are fastest, for configs/tuned; --dry-run needs no GPU",
    "--config FILE --shapes FILE [--out FILE] [--cover WHAT] [--shard I/N] [--dry-run]",
    R"(
The configuration gives the tiles to try, the intervals of M and the rules of measuring. A tile's
result is checked before its time counts, and it replaces the default choice only when it is faster
by more than the noise. Every measurement is kept in the journal: the same command goes on where a
killed one, or one whose budget was spent, ended. The table is written after each problem. Shards are
parts of the problems; "kiln tune merge" puts their tables together.

JSON keys: dry_run, num_sms, shard; problems: [{name, problem, intervals, candidates, kernels,
measure_s, error}]; of a dry run compiled, failed; else unfinished: problems left, and results:
[{name, m, tile, us, current_tile, current_us, noise_us, measured, hopeless, rejected}].

Exit codes: 0 done, or the budget is spent; 1 a problem, an M or a kernel failed; 2 usage or a bad
file; 3 no usable GPU; 4 a kernel is not in the cache and compiling is not allowed.)",
    {{"--config", "FILE", "what to try and how to measure (configs/tune/*.json)"},
     {"--shapes", "FILE", "the problems (configs/shapes/*.json, configs/bench/*.json)"},
     {"--out", "FILE", "the table to write (default: tuned.json)"},
     {"--journal", "FILE", "the measurements so far (default: the table's name and .journal)"},
     {"--cover", "WHAT", "all M, or the intervals of listed M only (default: the configuration's)"},
     {"--shard", "I/N", "the I-th of N parts of the problems only (1/N to N/N)"},
     {"--budget", "S", "begin no interval after so many seconds"},
     {"--device", "N", "CUDA device (default: the first Hopper GPU)"},
     kCacheFlag,
     {"--jobs", "N", "compile so many kernels at once (default: one per CPU)"},
     {"--timeout", "S", "give up on a kernel after so many seconds (default 120)"},
     {"--dry-run", "", "show the plan and measure nothing"},
     {"--compile", "", "with --dry-run: compile every candidate into the cache"},
     {"--json", "", "print JSON at the end"}}};

struct TuneOptions {
  std::string config_path, shapes_path, out, journal, cache_dir;
  Shard part;
  std::optional<TuneCover> cover;
  std::optional<std::int64_t> budget_s, device;
  std::int64_t jobs = 1, timeout_s = 120;
  bool dry_run = false, compile = false, json = false;
};

TuneOptions read_options(const Args& args) {
  TuneOptions o;
  o.config_path = args.required_text("--config");
  o.shapes_path = args.required_text("--shapes");
  o.out = args.text("--out", "tuned.json");
  o.journal = args.text("--journal", o.out + ".journal");
  o.part = read_shard(args);
  if (args.has("--cover")) o.cover = parse_tune_cover(args.required_text("--cover"), "--cover");
  o.budget_s = args.integer("--budget", 1, 1'000'000);
  o.device = args.integer("--device", 0, 1023);
  o.cache_dir = cache_directory(args);
  o.jobs = args.integer("--jobs", 1, 256, usable_cpus());
  o.timeout_s = args.integer("--timeout", 1, 86'400, 120);
  o.dry_run = args.has("--dry-run");
  o.compile = args.has("--compile");
  o.json = args.has("--json");
  if (o.compile && !o.dry_run)
    throw Error(Status::kInvalidArgument,
                "--compile belongs to --dry-run: a tuning run compiles what it needs by itself");
  return o;
}

// A compiler process for each thread of CompileAhead.
CompileAhead::Compile worker_compiler(const TuneOptions& o, jit::Arch arch, std::int32_t num_sms) {
  auto pool = std::make_shared<WorkerPool>(
      "/proc/self/exe",
      std::vector<std::string>{"kiln", std::string(kWorkerCommand), "--arch", jit::name(arch),
                               "--sms", fmt::to_string(num_sms), "--cache=" + o.cache_dir},
      1, std::chrono::seconds(o.timeout_s));
  return [pool](const jit::GemmSpec& spec) {
    CompileOutcome out;
    const auto done = [&out](std::size_t, const WorkerOutcome& outcome) {
      if (!outcome.answered) {
        out.error = outcome.failure;
        return true;
      }
      const WorkerReply reply = decode_reply(outcome.reply);
      if (const auto* failure = std::get_if<WorkerFailure>(&reply)) {
        out.error = failure->message;
        out.status = failure->status;
      } else {
        out.spill_bytes = std::get<runtime::KernelInfo>(reply).spill_bytes;
      }
      return true;
    };
    pool->run({encode_request(spec)}, done, [] {});
    return out;
  };
}

std::unique_ptr<CompileAhead> make_compilers(const TuneOptions& o, jit::Arch arch,
                                             std::int32_t num_sms) {
  return std::make_unique<CompileAhead>(static_cast<int>(o.jobs),
                                        [=] { return worker_compiler(o, arch, num_sms); });
}

// Of a dry run with --compile: every candidate of every problem. Returns the failures.
std::size_t compile_all(const TuneOptions& o, const TuneConfig& config,
                        const std::vector<PlannedProblem>& plan, std::size_t& compiled) {
  const auto compilers = make_compilers(o, config.arch, config.machine.num_sms);
  std::vector<jit::GemmSpec> specs;
  for (const PlannedProblem& p : plan)
    specs.insert(specs.end(), p.kernels.begin(), p.kernels.end());
  compilers->want(specs);
  Progress progress(specs.size());
  std::size_t failures = 0;
  for (const jit::GemmSpec& spec : specs) {
    const CompileOutcome outcome = compilers->get(spec);
    progress.advance(jit::describe(spec.tile));
    if (outcome.error.empty()) {
      ++compiled;
      continue;
    }
    ++failures;
    progress.clear();
    print_error(fmt::format("kiln tune: {} {}: {}\n", jit::describe(spec.problem),
                            jit::describe(spec.tile), outcome.error));
  }
  return failures;
}

// What an engine on such a GPU would know, without one.
TuneTarget offline_target(const TuneConfig& config) {
  kiln_engine_options options = offline_options(config.arch, config.machine.num_sms);
  options.cache_dir = "";
  const EngineHandle engine(options);
  return {config.machine, engine.engine().tuned()};
}

int dry_run(const TuneOptions& o, const TuneConfig& config,
            const std::vector<NamedProblem>& problems) {
  const auto plan = plan_problems(config, problems, offline_target(config), o.part);
  std::size_t compiled = 0, failures = 0, bad = 0;
  if (o.compile) {
    kiln_engine_options options = offline_options(config.arch, config.machine.num_sms);
    options.cache_dir = o.cache_dir.c_str();
    const EngineHandle engine(options);
    require_usable_cache(engine.engine().disk_cache(), o.cache_dir);
    failures = compile_all(o, config, plan, compiled);
  }
  for (const PlannedProblem& p : plan) bad += p.error.empty() ? 0 : 1;
  if (o.json) {
    print_json({{"dry_run", true},
                {"num_sms", config.machine.num_sms},
                {"shard", describe(o.part)},
                {"problems", to_json(plan)},
                {"compiled", compiled},
                {"failed", failures}});
  } else {
    print(plan_text(plan, o.jobs));
    if (o.compile) print(fmt::format("{} kernels compiled, {} failed\n", compiled, failures));
  }
  return failures + bad > 0 ? kExitFailure : kExitOk;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  return fmt::format("{:04}-{:02}-{:02}", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
}

std::string method_of(const TuneConfig& config) {
  const TuneMeasuring& m = config.measuring;
  return fmt::format(
      "kiln tune, configuration {}: kernel time by events in a graph, {} MB written before each "
      "launch, median of {} rounds of {} in turn; grouped rows: mean of {} draws in 0.7 to 1.3 "
      "times the mean, which is what is expected of masked groups or, in turn, 5/6 of it",
      config.digest.substr(0, 12), m.flush_mb, m.final_rounds, m.final_repeats, m.draws);
}

// One run with a GPU.
class Session {
 public:
  Session(const TuneOptions& options, const TuneConfig& config, const EngineHandle& engine,
          const std::vector<NamedProblem>& problems, const std::string& shapes_digest)
      : options_(options),
        config_(config),
        target_{engine.engine().machine(), engine.engine().tuned()},
        table_(empty_table(engine)),
        plan_(plan_problems(config, problems, target_, options.part)),
        journal_(options.journal, identity(shapes_digest)),
        gpu_(make_gpu_measurer(engine, config.measuring)),
        compilers_(make_compilers(options, config.arch, target_.machine.num_sms)),
        compiling_(*compilers_, config.constraints.max_spill_bytes, *gpu_),
        measurer_(journal_, compiling_),
        progress_(count_intervals(plan_)) {
    table_.date = today();
    table_.method = method_of(config);
  }

  int run() {
    if (!options_.json) {
      print(plan_summary(plan_, options_.jobs));
      if (journal_.recorded() > 0)
        print(fmt::format("{} measurements are in {} already\n", journal_.recorded(),
                          options_.journal));
    }
    for (std::size_t i = 0; i < plan_.size(); ++i) tune_one(i);
    progress_.clear();
    write_table();
    report();
    return failed_ > 0 ? kExitFailure : kExitOk;
  }

 private:
  nlohmann::ordered_json identity(const std::string& shapes_digest) const {
    return {{"config", config_.digest},
            {"shapes", shapes_digest},
            {"gpu", table_.gpu},
            {"num_sms", table_.num_sms},
            {"cuda", table_.cuda},
            {"driver", table_.driver},
            {"kernels", runtime::templates_digest()}};
  }

  static std::size_t count_intervals(const std::vector<PlannedProblem>& plan) {
    std::size_t count = 0;
    for (const PlannedProblem& p : plan) count += p.intervals.size();
    return count;
  }

  double elapsed_s() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  bool is_over() const {
    return options_.budget_s && elapsed_s() >= static_cast<double>(*options_.budget_s);
  }

  void tune_one(std::size_t index) {
    const PlannedProblem& p = plan_[index];
    if (!p.error.empty()) return fail(fmt::format("{}: {}", p.name, p.error));
    if (is_over()) {
      ++unfinished_;
      return;
    }
    // What a search left out is not wanted any more; the next problems' kernels are.
    compilers_->forget_waiting();
    for (std::size_t i = index; i < std::min(index + 3, plan_.size()); ++i)
      compilers_->want(plan_[i].kernels);
    SearchHooks hooks;
    hooks.stop = [this] { return is_over(); };
    hooks.ended = [&](const IntervalResult& interval) { ended(p, interval); };
    try {
      const ProblemResult result =
          search_problem(config_, p.problem, p.intervals, target_, measurer_, hooks);
      unfinished_ += result.complete ? 0 : 1;
      add(p, result);
    } catch (const Error& error) {
      // A problem that is too large, or that no launch takes, leaves the GPU to the others.
      const Status status = error.status();
      if (status != Status::kOutOfMemory && status != Status::kInvalidArgument) throw;
      fail(fmt::format("{}: {}", p.name, error.what()));
    }
  }

  void ended(const PlannedProblem& p, const IntervalResult& i) {
    progress_.clear();
    if (i.winner) {
      results_.push_back({{"name", p.name},
                          {"m", i.interval.m},
                          {"tile", jit::describe(i.winner->tile)},
                          {"us", i.winner->time_us},
                          {"current_tile", i.current ? jit::describe(i.current->tile) : ""},
                          {"current_us", i.current ? i.current->time_us : 0},
                          {"noise_us", i.noise_us},
                          {"measured", i.measured},
                          {"hopeless", i.hopeless},
                          {"rejected", i.rejected.size()}});
      if (!options_.json) print(interval_line(p, i));
      if (i.current) {
        log_gain_ += std::log(i.current->time_us / i.winner->time_us);
        changed_ += i.current->tile != i.winner->tile ? 1 : 0;
        ++compared_;
      }
    } else {
      fail(fmt::format("{} m={}: none of {} tiles passed, the first because: {}", p.name,
                       i.interval.m, i.measured, i.rejected.front().reason));
    }
    progress_.advance(p.name);
    std::fflush(stdout);  // a log that is watched shows each interval
  }

  static std::string interval_line(const PlannedProblem& p, const IntervalResult& i) {
    const std::string current =
        i.current ? fmt::format("{} {:.2f} us", jit::describe(i.current->tile), i.current->time_us)
                  : "rejected";
    return fmt::format(
        "{} m={}: {} {:.2f} us, now {}, noise {:.2f} us; {} tiles measured, {} hopeless, {} "
        "rejected{}\n",
        p.name, i.interval.m, jit::describe(i.winner->tile), i.winner->time_us, current, i.noise_us,
        i.measured, i.hopeless, i.rejected.size(),
        i.rejected.empty() ? "" : fmt::format(" (the first: {})", i.rejected.front().reason));
  }

  void add(const PlannedProblem& p, const ProblemResult& result) {
    progress_.clear();
    if (!options_.json && result.chosen.size() > 1)
      print(
          fmt::format("{}: {} kernels serve the {} M measured, at most {:.1f} % slower than the "
                      "best of each\n",
                      p.name, result.kernels, result.chosen.size(), 100 * result.max_loss));
    runtime::TunedEntry entry = to_entry(result);
    if (entry.intervals.empty()) return;
    table_.entries.push_back(std::move(entry));
    write_table();
  }

  void write_table() const { OutputFile(options_.out, "--out").write(runtime::to_text(table_)); }

  void fail(const std::string& what) {
    ++failed_;
    progress_.clear();
    print_error(fmt::format("kiln tune: {}\n", what));
  }

  void report() const {
    if (options_.json) {
      print_json({{"dry_run", false},
                  {"num_sms", target_.machine.num_sms},
                  {"shard", describe(options_.part)},
                  {"problems", to_json(plan_)},
                  {"unfinished", unfinished_},
                  {"results", results_}});
      return;
    }
    if (compared_ > 0)
      print(
          fmt::format("{} of {} choices changed; on the geometric mean the time before is {:.3f} "
                      "times the time now\n",
                      changed_, compared_, std::exp(log_gain_ / static_cast<double>(compared_))));
    print(
        fmt::format("{:.0f} s, of which {:.0f} s waiting for compilers; {} kernels compiled or "
                    "found\n",
                    elapsed_s(), compiling_.waited_s(), compilers_->compiled()));
    if (unfinished_ > 0)
      print(
          fmt::format("{} problems are unfinished, the budget is spent: the same command goes "
                      "on\n",
                      unfinished_));
  }

  const TuneOptions& options_;
  const TuneConfig& config_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  TuneTarget target_;
  runtime::TunedFile table_;
  std::vector<PlannedProblem> plan_;
  TuneJournal journal_;
  std::unique_ptr<Measurer> gpu_;
  std::unique_ptr<CompileAhead> compilers_;
  CompilingMeasurer compiling_;
  JournaledMeasurer measurer_;
  Progress progress_;
  nlohmann::ordered_json results_ = nlohmann::ordered_json::array();
  std::size_t unfinished_ = 0, failed_ = 0, changed_ = 0, compared_ = 0;
  double log_gain_ = 0;
};

int measure(const TuneOptions& o, const TuneConfig& config,
            const std::vector<NamedProblem>& problems, const std::string& shapes_digest) {
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  options.cache_dir = o.cache_dir.c_str();
  options.device = find_device(o.device);
  const EngineHandle engine = open_engine(options);
  require_usable_cache(engine.engine().disk_cache(), o.cache_dir);
  { const OutputFile writable(o.out, "--out"); }  // now, and not after the first problem
  return Session(o, config, engine, problems, shapes_digest).run();
}

}  // namespace

int tune(Words words) {
  if (!words.empty() && words[0] == "merge") return tune_merge(words.subspan(1));
  const Args args(kCommand, words);
  if (args.wants_help()) {
    print(help_text(kCommand));
    return kExitOk;
  }
  const TuneOptions o = read_options(args);
  TuneConfig config = load_tune_config(o.config_path);
  if (o.cover) config.intervals.cover = *o.cover;
  const std::string shapes = read_file(o.shapes_path);
  const ShapesFile file = parse_shapes(shapes, o.shapes_path);
  if (o.dry_run) return dry_run(o, config, file.problems);
  return measure(o, config, file.problems, cache::to_hex(cache::sha256(shapes)));
}

}  // namespace kiln::tools
