// kiln warm: every kernel of a shapes file into the cache, without a GPU.
//
// This process looks up; what is missing is compiled by worker processes (worker_pool.h), so that a
// compiler that crashes or hangs costs one kernel.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "runtime/options.h"
#include "tools/args.h"
#include "tools/cache_directory.h"
#include "tools/commands.h"
#include "tools/kernel_list.h"
#include "tools/problem_flags.h"
#include "tools/text.h"
#include "tools/warm_report.h"
#include "tools/work_share.h"
#include "tools/worker_pool.h"
#include "tools/worker_protocol.h"

namespace kiln::tools {
namespace {

const Command& command() {
  static const Command command = [] {
    Command c{"warm",
              "compile every kernel of a shapes file into the cache; needs no GPU",
              "--shapes FILE --arch sm_90a --sms N [--casts] [--cache DIR] [--shard I/N] [flags]",
              R"(
Every M is covered: a problem's plan says which tiles it can use, and those are made. For
grouped_masked M is the expected rows of a group. Problems that differ only in what kernels take at
run time (alignment, K under 1d1d, groups up to 64, 256 or 1024) can share kernels; "problem" shows
a kernel's own, with fixed values there. A problem that cannot be computed and a kernel that fails are
reported, and the rest is done.

With --casts the cache then serves a whole program that may not compile: the casts too, which depend
on no problem, and "kiln run --shapes FILE --check", by which such a machine can be accepted.

JSON keys: arch, num_sms, cache_dir, shard; kernels: a list of {program, key, problem, tile, uses:
[{name, m_min, m_max}], result: hit | compiled | missing | failed, registers, smem_bytes,
spill_bytes, cubin_bytes, compile_ms, error} (problem and tile are null of what --casts adds, and
uses is [] of a cast); bad_problems: [{name, error}]; summary: {kernels,
hits, compiled, missing, failed, bad_problems, wall_ms}.

With KILN_VERIFY=1 kernels that are in the cache are compiled, too, and compared with it; one that
differs is replaced, and counts as failed.

Exit codes: 0 all kernels are in the cache; 1 a kernel or problem failed, or the cache cannot be
used; 2 usage or a bad file; 4 KILN_NO_COMPILE is set and kernels are missing.)",
              {{"--shapes", "FILE", "the problems (configs/shapes/*.json)"}}};
    for (const Flag& flag : target_flags()) c.flags.push_back(flag);
    c.flags.push_back(kCastsFlag);
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

struct WarmOptions {
  std::string shapes_path;
  Target target;
  std::string cache_dir;
  std::int64_t jobs = 1;
  std::int64_t timeout_s = 120;
  Shard part;
  KernelKinds kinds = KernelKinds::kGemms;
  bool json = false;
};

WarmOptions read_options(const Args& args) {
  WarmOptions options;
  options.shapes_path = args.required_text("--shapes");
  options.target = read_target(args);
  options.cache_dir = cache_directory(args);
  options.jobs = args.integer("--jobs", 1, 256, usable_cpus());
  options.timeout_s = args.integer("--timeout", 1, 86'400, 120);
  options.part = read_shard(args);
  options.kinds = read_kinds(args);
  options.json = args.has("--json");
  return options;
}

void look_up(runtime::Engine& engine, const std::vector<NeededKernel>& kernels,
             WarmReport& report) {
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

void compile_missing(const WarmOptions& options, const std::vector<NeededKernel>& kernels,
                     WarmReport& report) {
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
  const auto done = [&](std::size_t position, const WorkerOutcome& outcome) {
    if (!outcome.answered) {
      report.set(missing[position], failed(outcome.failure));
      return true;
    }
    const WorkerReply reply = decode_reply(outcome.reply);
    report.set(missing[position], from_reply(reply));
    const auto* failure = std::get_if<WorkerFailure>(&reply);
    // Without a compiler no other kernel would fare better.
    return failure == nullptr || failure->status != Status::kNoCompiler;
  };
  pool.run(requests, done, [&] { report.tick(); });
  for (const std::size_t index : report.unfinished()) {
    report.set(index, failed("not tried: there is no compiler"));
  }
}

nlohmann::ordered_json to_json(const std::vector<BadProblem>& problems) {
  auto list = nlohmann::ordered_json::array();
  for (const BadProblem& problem : problems) {
    list.push_back({{"name", problem.name}, {"error", problem.error}});
  }
  return list;
}

nlohmann::ordered_json document(const WarmOptions& options, const WarmReport& report,
                                const std::vector<BadProblem>& bad, const WarmSummary& summary) {
  return {{"arch", jit::name(options.target.arch)},
          {"num_sms", options.target.num_sms},
          {"cache_dir", options.cache_dir},
          {"shard", fmt::format("{}/{}", options.part.index, options.part.count)},
          {"kernels", report.to_json(options.target.arch)},
          {"bad_problems", to_json(bad)},
          {"summary", to_json(summary)}};
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
  const WarmOptions options = read_options(args);
  const Shard& part = options.part;
  const ShapesFile shapes = load_shapes(options.shapes_path);

  // 2. A cache that kernels can be stored in.
  kiln_engine_options engine_options = offline_options(options.target.arch, options.target.num_sms);
  engine_options.cache_dir = options.cache_dir.c_str();
  // The settings of the worker processes: refused here, once, if they are wrong.
  const bool verify = runtime::resolve(engine_options, runtime::Environment::read()).verify;
  engine_options.miss_policy = KILN_MISS_FROZEN;  // this process only looks up
  const EngineHandle engine(engine_options);
  require_usable_cache(engine.engine().disk_cache(), options.cache_dir);
  const KernelList all = list_kernels(shapes.problems, engine.engine().machine(),
                                      engine.engine().tuned(), options.kinds);
  const std::vector<NeededKernel> kernels = shard(all.kernels, part.index - 1, part.count);

  // 3. Look up, then compile what is missing.
  for (const BadProblem& problem : all.bad) {
    print_error(fmt::format("kiln warm: {}: {}\n", problem.name, problem.error));
  }
  WarmReport report(kernels, options.json);
  if (!verify) look_up(engine.engine(), kernels, report);  // else the workers compare each of them
  compile_missing(options, kernels, report);
  report.finish();

  // 4. The sum.
  const std::chrono::duration<double, std::milli> wall = std::chrono::steady_clock::now() - start;
  const WarmSummary summary = report.summary(all.bad.size(), wall.count());
  if (options.json) {
    print_json(document(options, report, all.bad, summary));
  } else {
    print(summary_line(summary, options.cache_dir));
  }
  return exit_code(summary);
}

}  // namespace kiln::tools
