// kiln warm: every kernel of a shapes file into the cache, without a GPU.
//
// This process looks up; what is missing is compiled by worker processes (worker_pool.h), so that a
// compiler that crashes or hangs costs one kernel.
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "runtime/options.h"
#include "tools/args.h"
#include "tools/cache_directory.h"
#include "tools/commands.h"
#include "tools/kernel_list.h"
#include "tools/problem_flags.h"
#include "tools/progress.h"
#include "tools/table.h"
#include "tools/text.h"
#include "tools/worker_pool.h"
#include "tools/worker_protocol.h"

namespace kiln::tools {
namespace {

const Command& command() {
  static const Command command = [] {
    Command c{"warm", "compile every kernel of a shapes file into the cache; needs no GPU",
              "--shapes FILE --arch sm_90a --sms N [--cache DIR] [--jobs N] [--shard I/N] [--json]",
              R"(
Every M is covered: a problem's plan says which tiles it can use, and those are made. A problem that
cannot be computed and a kernel that fails are reported, and the rest is done.

JSON keys: arch, num_sms, cache_dir, shard; kernels: a list of {program, key, problem, tile, uses:
[{name, m_min, m_max}], result: hit | compiled | missing | failed, registers, smem_bytes,
spill_bytes, cubin_bytes, compile_ms, error}; bad_problems: [{name, error}]; summary: {kernels,
hits, compiled, missing, failed, bad_problems, wall_ms}.

Exit codes: 0 all kernels are in the cache; 1 a kernel or problem failed, or the cache cannot be
used; 2 usage or a bad file; 4 KILN_NO_COMPILE is set and kernels are missing.)",
              {{"--shapes", "FILE", "the problems (configs/shapes/*.json)"}}};
    for (const Flag& flag : target_flags()) c.flags.push_back(flag);
    c.flags.push_back(kCacheFlag);
    c.flags.push_back({"--jobs", "N", "compile so many kernels at once (default: one per CPU)"});
    c.flags.push_back({"--shard", "I/N",
                       "the I-th of N parts only (1/N to N/N), to share the work among machines"});
    c.flags.push_back(
        {"--timeout", "S", "give up on a kernel after so many seconds (default 120)"});
    c.flags.push_back({"--json", "", "print JSON at the end"});
    return c;
  }();
  return command;
}

struct Shard {
  std::int64_t index = 1;  // from 1
  std::int64_t count = 1;
};

Shard read_shard(const Args& args) {
  const std::string text = args.text("--shard", "1/1");
  const std::size_t slash = text.find('/');
  std::optional<ParsedInteger> index, count;
  if (slash != std::string::npos) {
    index = parse_integer(std::string_view(text).substr(0, slash));
    count = parse_integer(std::string_view(text).substr(slash + 1));
  }
  constexpr std::int64_t kMaxShards = 10'000;
  const bool valid = index && count && !index->overflow && !count->overflow && index->value >= 1 &&
                     index->value <= count->value && count->value <= kMaxShards;
  if (!valid) {
    throw Error(
        Status::kInvalidArgument,
        fmt::format("--shard must be I/N with 1 <= I <= N <= {}, got {}", kMaxShards, quote(text)));
  }
  return {index->value, count->value};
}

std::int64_t usable_cpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (::sched_getaffinity(0, sizeof cpus, &cpus) != 0) return 1;
  return std::clamp<std::int64_t>(CPU_COUNT(&cpus), 1, 256);
}

enum class Result { kHit, kCompiled, kMissing, kFailed };

std::string_view name(Result result) {
  switch (result) {
    case Result::kHit:
      return "hit";
    case Result::kCompiled:
      return "compiled";
    case Result::kMissing:
      return "missing";
    default:
      return "failed";
  }
}

struct KernelOutcome {
  Result result = Result::kFailed;
  runtime::KernelInfo info;  // of a hit or a compile
  std::string error;         // of the others
};

KernelOutcome failed(std::string error, Result result = Result::kFailed) {
  KernelOutcome outcome;
  outcome.result = result;
  outcome.error = std::move(error);
  return outcome;
}

KernelOutcome found(runtime::KernelInfo info) {
  KernelOutcome outcome;
  outcome.result = info.from_disk ? Result::kHit : Result::kCompiled;
  outcome.info = std::move(info);
  return outcome;
}

KernelOutcome from_reply(const WorkerReply& reply) {
  if (const auto* failure = std::get_if<WorkerFailure>(&reply)) {
    return failed(failure->message,
                  failure->status == Status::kFrozen ? Result::kMissing : Result::kFailed);
  }
  return found(std::get<runtime::KernelInfo>(reply));
}

// Collects what became of the kernels and prints each as it ends.
class Report {
 public:
  Report(const std::vector<NeededKernel>& kernels, bool json)
      : kernels_(kernels), outcomes_(kernels.size()), json_(json), progress_(kernels.size()) {
    for (const NeededKernel& kernel : kernels) {
      const std::vector<std::string> row = cells(kernel, nullptr);
      for (std::size_t i = 0; i < row.size(); ++i) {
        if (row[i].size() > widest_[i].size()) widest_[i] = row[i];
      }
    }
    if (!json_ && !kernels.empty()) print(table_.header(widest_));
  }

  void set(std::size_t index, KernelOutcome outcome) {
    progress_.clear();
    if (!json_) print(table_.line(widest_, cells(kernels_[index], &outcome)));
    if (!outcome.error.empty()) {
      print_error(fmt::format("kiln warm: {} M {}: {}\n", kernels_[index].uses[0].problem,
                              interval(kernels_[index]), outcome.error));
    }
    outcomes_[index] = std::move(outcome);
    progress_.advance(fmt::format("hits {}, compiled {}, failed {}", count(Result::kHit),
                                  count(Result::kCompiled),
                                  count(Result::kFailed) + count(Result::kMissing)));
    std::fflush(stdout);
  }
  void tick() { progress_.draw(); }
  void finish() { progress_.clear(); }

  std::size_t count(Result result) const {
    return static_cast<std::size_t>(
        std::count_if(outcomes_.begin(), outcomes_.end(),
                      [&](const auto& outcome) { return outcome && outcome->result == result; }));
  }
  std::vector<std::size_t> unfinished() const {
    std::vector<std::size_t> indices;
    for (std::size_t i = 0; i < outcomes_.size(); ++i) {
      if (!outcomes_[i]) indices.push_back(i);
    }
    return indices;
  }

  nlohmann::ordered_json to_json(jit::Arch arch) const {
    auto list = nlohmann::ordered_json::array();
    for (std::size_t i = 0; i < kernels_.size(); ++i)
      list.push_back(kernel_json(kernels_[i], *outcomes_[i], arch));
    return list;
  }

 private:
  static std::string interval(const NeededKernel& kernel) {
    return human_interval(kernel.uses[0].m_min, kernel.uses[0].m_max);
  }

  static std::vector<std::string> cells(const NeededKernel& kernel, const KernelOutcome* outcome) {
    const std::size_t more = kernel.uses.size() - 1;
    std::vector<std::string> row = {
        kernel.uses[0].problem + (more > 0 ? fmt::format(" (+{})", more) : ""),
        fmt::to_string(kernel.spec.problem.n), fmt::to_string(kernel.spec.problem.k),
        interval(kernel), jit::describe(kernel.spec.tile)};
    if (outcome == nullptr) return row;
    const bool known = outcome->result == Result::kHit || outcome->result == Result::kCompiled;
    const runtime::KernelInfo& info = outcome->info;
    row.push_back(known ? fmt::to_string(info.registers) : "-");
    row.push_back(known ? human_bytes(static_cast<std::uint64_t>(smem_bytes(info))) : "-");
    row.push_back(known ? fmt::format("{} B", info.spill_bytes) : "-");
    row.push_back(known ? human_bytes(static_cast<std::uint64_t>(info.cubin_bytes)) : "-");
    row.push_back(known ? fmt::format("{:.0f} ms", info.compile_ms) : "-");
    row.emplace_back(name(outcome->result));
    return row;
  }

  static std::int64_t smem_bytes(const runtime::KernelInfo& info) {
    return info.launch.dynamic_smem_bytes + info.static_smem_bytes;
  }

  static nlohmann::ordered_json kernel_json(const NeededKernel& kernel,
                                            const KernelOutcome& outcome, jit::Arch arch) {
    auto uses = nlohmann::ordered_json::array();
    for (const KernelUse& use : kernel.uses) {
      uses.push_back({{"name", use.problem}, {"m_min", use.m_min}, {"m_max", use.m_max}});
    }
    const runtime::KernelInfo& info = outcome.info;
    return {{"program", jit::describe(jit::KernelSpec{kernel.spec, arch})},
            {"key", info.key},
            {"problem", tools::to_json(kernel.spec.problem)},
            {"tile", jit::describe(kernel.spec.tile)},
            {"uses", uses},
            {"result", name(outcome.result)},
            {"registers", info.registers},
            {"smem_bytes", smem_bytes(info)},
            {"spill_bytes", info.spill_bytes},
            {"cubin_bytes", info.cubin_bytes},
            {"compile_ms", info.compile_ms},
            {"error", outcome.error}};
  }

  const std::vector<NeededKernel>& kernels_;
  std::vector<std::optional<KernelOutcome>> outcomes_;
  bool json_;
  Progress progress_;
  Table table_{{{"problem"},
                {"N", Align::kRight},
                {"K", Align::kRight},
                {"M"},
                {"tile"},
                {"regs", Align::kRight},
                {"smem", Align::kRight},
                {"spills", Align::kRight},
                {"cubin", Align::kRight},
                {"compile", Align::kRight},
                {"result"}}};
  // Rows are printed as they come, so what is not known yet is given room for its widest.
  std::vector<std::string> widest_{"",          "",       "",          "",         "",        "255",
                                   "227.0 KiB", "1234 B", "123.4 KiB", "12345 ms", "compiled"};
};

void look_up(runtime::Engine& engine, const std::vector<NeededKernel>& kernels, Report& report) {
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    const jit::KernelSpec spec{kernels[i].spec, engine.arch()};
    try {
      runtime::KernelInfo info = runtime::describe_entry(engine.cubin_for(spec).entry, true);
      // An engine that may not compile is content with what another compiler made; one that may is
      // not. Which of them this cache will serve is not known, so only the own key counts here.
      if (info.key == engine.key_for(spec)) report.set(i, found(std::move(info)));
    } catch (const Error& error) {
      // This engine may not compile, so either of these only says that the kernel is not there.
      const bool is_miss =
          error.status() == Status::kFrozen || error.status() == Status::kNoCompiler;
      if (!is_miss) report.set(i, failed(error.what()));
    }
  }
}

struct CompileOptions {
  Target target;
  std::string cache_dir;
  std::int64_t jobs = 1;
  std::int64_t timeout_s = 120;
};

void compile_missing(const CompileOptions& options, const std::vector<NeededKernel>& kernels,
                     Report& report) {
  const std::vector<std::size_t> missing = report.unfinished();
  if (missing.empty()) return;
  std::vector<std::string> requests;
  for (const std::size_t index : missing) requests.push_back(encode_request(kernels[index].spec));
  const auto workers =
      std::min<std::int64_t>(options.jobs, static_cast<std::int64_t>(missing.size()));
  WorkerPool pool("/proc/self/exe",
                  {"kiln", std::string(kWorkerCommand), "--arch", jit::name(options.target.arch),
                   "--sms", fmt::to_string(options.target.num_sms), "--cache=" + options.cache_dir},
                  static_cast<int>(workers), std::chrono::seconds(options.timeout_s));
  bool no_compiler = false;
  const auto done = [&](std::size_t position, const WorkerOutcome& outcome) {
    if (outcome.answered) {
      const WorkerReply reply = decode_reply(outcome.reply);
      const auto* failure = std::get_if<WorkerFailure>(&reply);
      no_compiler = failure != nullptr && failure->status == Status::kNoCompiler;
      report.set(missing[position], from_reply(reply));
    } else {
      report.set(missing[position], failed(outcome.failure));
    }
    return !no_compiler;  // no other kernel would fare better
  };
  pool.run(requests, done, [&] { report.tick(); });
  for (const std::size_t index : report.unfinished()) {
    report.set(index, failed("not tried: there is no compiler"));
  }
}

struct Summary {
  std::size_t kernels = 0, hits = 0, compiled = 0, missing = 0, failed = 0, bad_problems = 0;
  double wall_ms = 0;

  ExitCode exit() const {
    if (failed > 0 || bad_problems > 0) return kExitFailure;
    return missing > 0 ? kExitMiss : kExitOk;
  }
};

void print_summary(const Summary& summary, const std::string& cache_dir) {
  print(fmt::format(
      "{} kernels: {} hits, {} compiled, {} failed{}{}; {:.2f} s; {}\n", summary.kernels,
      summary.hits, summary.compiled, summary.failed,
      summary.missing > 0 ? fmt::format(", {} missing (KILN_NO_COMPILE is set)", summary.missing)
                          : "",
      summary.bad_problems > 0 ? fmt::format("; {} bad problems", summary.bad_problems) : "",
      summary.wall_ms / 1000, cache_dir));
}

nlohmann::ordered_json to_json(const Summary& summary) {
  return {{"kernels", summary.kernels},   {"hits", summary.hits},
          {"compiled", summary.compiled}, {"missing", summary.missing},
          {"failed", summary.failed},     {"bad_problems", summary.bad_problems},
          {"wall_ms", summary.wall_ms}};
}

nlohmann::ordered_json to_json(const std::vector<BadProblem>& problems) {
  auto list = nlohmann::ordered_json::array();
  for (const BadProblem& problem : problems)
    list.push_back({{"name", problem.name}, {"error", problem.error}});
  return list;
}

}  // namespace

int warm(Words words) {
  const auto start = std::chrono::steady_clock::now();
  const Args args(command(), words);
  if (args.wants_help()) {
    print(help_text(command()));
    return kExitOk;
  }
  // 1. Everything that was asked for, checked before anything is done.
  const std::string shapes_path = args.required_text("--shapes");
  CompileOptions options;
  options.target = read_target(args);
  options.jobs = args.integer("--jobs", 1, 256, usable_cpus());
  options.timeout_s = args.integer("--timeout", 1, 86'400, 120);
  const Shard part = read_shard(args);
  const bool json = args.has("--json");
  const ShapesFile shapes = load_shapes(shapes_path);
  const KernelList all = list_kernels(shapes.problems, jit::Machine{options.target.num_sms});
  const std::vector<NeededKernel> kernels = shard(all.kernels, part.index - 1, part.count);

  // 2. A cache that kernels can be stored in.
  options.cache_dir = cache_directory(args);
  kiln_engine_options engine_options = offline_options(options.target.arch, options.target.num_sms);
  engine_options.cache_dir = options.cache_dir.c_str();
  // The settings of the worker processes: refused here, once, if they are wrong.
  runtime::resolve(engine_options, runtime::Environment::read());
  engine_options.miss_policy = KILN_MISS_FROZEN;  // this process only looks up
  const EngineHandle engine(engine_options);
  require_usable_cache(engine.engine().disk_cache(), options.cache_dir);

  // 3. Look up, then compile what is missing.
  for (const BadProblem& problem : all.bad)
    print_error(fmt::format("kiln warm: {}: {}\n", problem.name, problem.error));
  Report report(kernels, json);
  look_up(engine.engine(), kernels, report);
  compile_missing(options, kernels, report);
  report.finish();

  // 4. The sum.
  const std::chrono::duration<double, std::milli> wall = std::chrono::steady_clock::now() - start;
  const Summary summary{kernels.size(),
                        report.count(Result::kHit),
                        report.count(Result::kCompiled),
                        report.count(Result::kMissing),
                        report.count(Result::kFailed),
                        all.bad.size(),
                        wall.count()};
  if (json) {
    print_json({{"arch", jit::name(options.target.arch)},
                {"num_sms", options.target.num_sms},
                {"cache_dir", options.cache_dir},
                {"shard", fmt::format("{}/{}", part.index, part.count)},
                {"kernels", report.to_json(options.target.arch)},
                {"bad_problems", to_json(all.bad)},
                {"summary", to_json(summary)}});
  } else {
    print_summary(summary, options.cache_dir);
  }
  return summary.exit();
}

}  // namespace kiln::tools
