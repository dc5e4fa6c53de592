// kiln tune: which tile is fastest for each problem and M, by measurement.
//
// A dry run needs no GPU: it shows what would be measured and, when asked to, compiles it.
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <memory>
#include <optional>

#include "cache/digest.h"
#include "tools/args.h"
#include "tools/cache_directory.h"
#include "tools/commands.h"
#include "tools/progress.h"
#include "tools/strict_json.h"
#include "tools/text.h"
#include "tools/tune_compile.h"
#include "tools/tune_gpu.h"
#include "tools/tune_journal.h"
#include "tools/tune_output.h"
#include "tools/tune_plan.h"
#include "tools/worker_pool.h"
#include "tools/worker_protocol.h"

namespace kiln::tools {
namespace {

const Command kCommand{
    "tune",
    "measure which tiles are fastest, for configs/tuned; --dry-run needs no GPU",
    "--config FILE --shapes FILE [--out FILE] [--shard I/N] [--dry-run] [--json]",
    R"(
The configuration gives the tiles to try, the intervals of M and the rules of measuring. A tile's
result is checked before its time counts, and it replaces the default choice only when it is faster
by more than the noise. Every measurement is kept in the journal: the same command goes on where a
killed one, or one whose budget was spent, ended. Shards are parts of the problems; "kiln tune
merge" puts their tables together.

JSON keys: dry_run, num_sms, shard; problems: [{name, problem, intervals, candidates, kernels,
measure_s, error}]; of a dry run compiled, failed; else unfinished: problems left.

Exit codes: 0 done, or the budget is spent; 1 a problem or a kernel failed; 2 usage or a bad file; 3
no usable GPU.)",
    {{"--config", "FILE", "what to try and how to measure (configs/tune/*.json)"},
     {"--shapes", "FILE", "the problems (configs/shapes/*.json)"},
     {"--out", "FILE", "the table to write (default: tuned.json)"},
     {"--journal", "FILE", "the measurements so far (default: the table's name and .journal)"},
     {"--shard", "I/N", "the I-th of N parts of the problems only (1/N to N/N)"},
     {"--budget", "S", "begin no interval after so many seconds"},
     kCacheFlag,
     {"--jobs", "N", "compile so many kernels at once (default: one per CPU)"},
     {"--timeout", "S", "give up on a kernel after so many seconds (default 120)"},
     {"--dry-run", "", "show the plan and measure nothing"},
     {"--compile", "", "with --dry-run: compile every candidate into the cache"},
     {"--json", "", "print JSON at the end"}}};

struct TuneOptions {
  std::string config_path, shapes_path, out, journal, cache_dir;
  TuneShard part;
  std::optional<std::int64_t> budget_s;
  std::int64_t jobs = 1, timeout_s = 120;
  bool dry_run = false, compile = false, json = false;
};

std::int64_t usable_cpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (::sched_getaffinity(0, sizeof cpus, &cpus) != 0) return 1;
  return std::clamp<std::int64_t>(CPU_COUNT(&cpus), 1, 256);
}

TuneOptions read_options(const Args& args) {
  TuneOptions o;
  o.config_path = args.required_text("--config");
  o.shapes_path = args.required_text("--shapes");
  o.out = args.text("--out", "tuned.json");
  o.journal = args.text("--journal", o.out + ".journal");
  o.part = parse_tune_shard(args.text("--shard", "1/1"));
  o.budget_s = args.integer("--budget", 1, 1'000'000);
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

int dry_run(const TuneOptions& o, const TuneConfig& config,
            const std::vector<PlannedProblem>& plan) {
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
                {"shard", fmt::format("{}/{}", o.part.index, o.part.count)},
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

void report(const PlannedProblem& planned, const ProblemResult& result) {
  for (const IntervalResult& i : result.intervals) {
    if (!i.winner) {
      print_error(
          fmt::format("kiln tune: {} m={}: none of {} tiles passed, the first because: {}\n",
                      planned.name, i.interval.m, i.measured, i.rejected.front().reason));
      continue;
    }
    print(
        fmt::format("{} m={}: {} {:.2f} us, default {:.2f} us, noise {:.2f} us, {} of {} tiles "
                    "measured, {} hopeless, {} rejected\n",
                    planned.name, i.interval.m, jit::describe(i.winner->tile), i.winner->time_us,
                    i.current ? i.current->time_us : 0.0, i.noise_us, i.measured, i.candidates,
                    i.hopeless, i.rejected.size()));
  }
  print(
      fmt::format("{}: {} kernels serve every M measured, at most {:.1f} % slower than the best "
                  "of each\n",
                  planned.name, result.kernels, 100 * result.max_loss));
}

int measure(const TuneOptions& o, const TuneConfig& config, const std::string& shapes_digest) {
  const auto start = std::chrono::steady_clock::now();
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  options.cache_dir = o.cache_dir.c_str();
  const EngineHandle engine(options);
  TuneTable table;
  table.provenance = provenance_of(engine);
  table.provenance.date = today();
  table.provenance.method = fmt::format("kiln tune, configuration {}", config.digest.substr(0, 12));
  const jit::Machine machine = engine.engine().machine();
  const auto plan = plan_problems(config, load_shapes(o.shapes_path).problems, machine, o.part);
  TuneJournal journal(o.journal, {{"config", config.digest},
                                  {"shapes", shapes_digest},
                                  {"gpu", table.provenance.gpu},
                                  {"num_sms", machine.num_sms},
                                  {"cuda", table.provenance.cuda},
                                  {"driver", table.provenance.driver},
                                  {"kernels", templates_digest()}});
  const auto gpu = make_gpu_measurer(engine);
  const auto compilers = make_compilers(o, config.arch, machine.num_sms);
  CompilingMeasurer compiling(*compilers, config.constraints.max_spill_bytes, *gpu);
  JournaledMeasurer measurer(journal, compiling);
  std::size_t total = 0, unfinished = 0, bad = 0;
  for (const PlannedProblem& p : plan) total += p.intervals.size();
  Progress progress(total);
  SearchHooks hooks;
  hooks.stop = [&] {
    return o.budget_s &&
           std::chrono::steady_clock::now() - start >= std::chrono::seconds(*o.budget_s);
  };
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const PlannedProblem& p = plan[i];
    if (!p.error.empty()) {
      ++bad;
      print_error(fmt::format("kiln tune: {}: {}\n", p.name, p.error));
      continue;
    }
    hooks.ended = [&](const IntervalResult&) { progress.advance(p.name); };
    compilers->forget_waiting();
    compilers->want(p.kernels);
    if (i + 1 < plan.size()) compilers->want(plan[i + 1].kernels);
    const ProblemResult result =
        search_problem(config, p.problem, p.intervals, machine, measurer, hooks);
    progress.clear();
    if (!o.json) report(p, result);
    unfinished += result.complete ? 0 : 1;
    TuneTable part{table.provenance, {to_entry(result)}};
    std::vector<std::string> ignored;  // problems of one file that are alike to a kernel
    if (!part.entries.front().intervals.empty()) merge(table, part, p.name, ignored);
  }
  write_file(o.out, to_text(table));
  if (o.json) {
    print_json({{"dry_run", false},
                {"num_sms", machine.num_sms},
                {"shard", fmt::format("{}/{}", o.part.index, o.part.count)},
                {"problems", to_json(plan)},
                {"unfinished", unfinished}});
  } else if (unfinished > 0) {
    print(fmt::format("{} problems are unfinished, the budget is spent: the same command goes on\n",
                      unfinished));
  }
  return bad > 0 ? kExitFailure : kExitOk;
}

int tune_merge(Words words);

}  // namespace

int tune(Words words) {
  if (!words.empty() && words[0] == "merge") return tune_merge(words.subspan(1));
  const Args args(kCommand, words);
  if (args.wants_help()) {
    print(help_text(kCommand));
    return kExitOk;
  }
  const TuneOptions o = read_options(args);
  const TuneConfig config = load_tune_config(o.config_path);
  const std::string shapes = read_file(o.shapes_path);
  const ShapesFile file = parse_shapes(shapes, o.shapes_path);
  if (!o.dry_run) return measure(o, config, cache::to_hex(cache::sha256(shapes)));
  return dry_run(o, config, plan_problems(config, file.problems, config.machine, o.part));
}

namespace {

const Command kMerge{"tune merge",
                     "put the tables of several tuning runs together",
                     "FILE FILE... --out FILE [--json]",
                     R"(
Where two files have the same problem, the one with more intervals measured stays, else the later,
else the faster; each such case is reported. Files of different GPUs, drivers or versions are
refused.

JSON keys: entries, conflicts: [text].

Exit codes: 0 merged; 1 the table cannot be written; 2 usage or a bad file.)",
                     {{"--out", "FILE", "the table to write"}, {"--json", "", "print JSON"}}};

int tune_merge(Words words) {
  std::size_t files = 0;
  while (files < words.size() && !words[files].starts_with("-")) ++files;
  const Args args(kMerge, words.subspan(files));
  if (args.wants_help()) {
    print(help_text(kMerge));
    return kExitOk;
  }
  if (files == 0) throw Error(Status::kInvalidArgument, "a FILE to merge is missing");
  const std::string out = args.required_text("--out");
  std::optional<TuneTable> table;
  std::vector<std::string> conflicts;
  for (const std::string& name : words.first(files)) {
    TuneTable part = parse_tune_table(read_file(name), name);
    if (!table) {
      table = std::move(part);
    } else {
      merge(*table, part, name, conflicts);
    }
  }
  write_file(out, to_text(*table));
  for (const std::string& conflict : conflicts)
    print_error(fmt::format("kiln tune merge: {}\n", conflict));
  if (args.has("--json")) {
    nlohmann::ordered_json document = {{"entries", table->entries.size()}};
    document["conflicts"] = conflicts;
    print_json(document);
  } else {
    print(fmt::format("{} problems from {} files in {}\n", table->entries.size(), files, out));
  }
  return kExitOk;
}

}  // namespace
}  // namespace kiln::tools
