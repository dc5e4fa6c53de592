#include <fmt/format.h>

#include <optional>

#include "tools/args.h"
#include "tools/bench_report.h"
#include "tools/cache_directory.h"
#include "tools/commands.h"
#include "tools/cupti.h"
#include "tools/gpu.h"
#include "tools/host_costs.h"
#include "tools/output_file.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

const Command& command() {
  static const Command command{
      "bench", "compare kernel times with cuBLASLt, references and the roofline",
      "--shapes FILE [--rows FILTER] [--compare cublaslt] [--mode MODE] [flags]", R"(
Each row is one problem at one of its m values. Its result is checked against a plain FP32/FP64
kernel first; a wrong one gets no time. All that is compared takes turns. us is the median, +- half
the distance from the 10th to the 90th percentile.

--clock cupti: times of the kernel alone, as profilers show them, from libcupti. events: the launch
is captured in a graph between two events, and what the events themselves cost (an interval without
a launch, in the same rounds) is subtracted; a few microseconds of starting and ending the kernel
stay in. auto: cupti where it works. The mode hot always goes by events.

--mode flush: 8 GB are written before each launch (less on a GPU with less than 64 GB). clean: 256
MiB are read, so that L2 holds nothing that must be written back. hot: launches back to back, the
time divided by their number.

Lt block is cuBLASLt with the problem's scaling, Lt tensor with one scale per operand: a ceiling.
"/ Kiln" is the other's time over Kiln's: above 1 Kiln is faster. "-" is explained below the table.
References are what the file says, and left out on another GPU than it names; where it says how
much was computed in that time, it is scaled to the group sizes drawn here. A row of groups is the
mean of --draws draws of their sizes, with the seeds S, S + 1, ...

--host measures instead what the host pays, over the same rows: the first compile of a kernel, the
same from a warm disk cache, and a launch.

JSON keys: format, kiln, device, num_sms, mode, clock, repeat, seed, peak_tflops, peak_gb_per_s,
nvml, cublaslt, references, results: a list of {name, problem, m, launch_m, launch_k, group_sizes
(these three of the first draw), draws, total (rows or K of all groups), tile, reason, empty_us,
flops, bytes, roofline_us, us, p10_us, p90_us, best_us, samples, tflops, gb_per_s, roofline_percent
(all from launch_m on only when the check passed), rivals, references, gpu, check, error},
mean_speedups (geometric, by layout and "all"); with --host instead of results: host.

Exit codes: 0 all rows ran and passed; 1 a row failed; 2 usage or a bad file; 3 no usable GPU;
4 KILN_NO_COMPILE is set and a kernel is not in the cache.)",
      {{"--shapes", "FILE", "the problems, and what they are compared with"},
       {"--rows", "FILTER", "only problems whose name has one of these words, split at commas"},
       {"--compare", "WHAT", "cublaslt: time cuBLASLt in the same rounds"},
       {"--mode", "MODE", "state of L2: flush (default), clean or hot"},
       {"--clock", "CLOCK", "what times are taken with: auto (default), cupti or events"},
       {"--repeat", "R", "samples of each (default 30)"},
       {"--draws", "D", "of the sizes of groups; a row is their mean (default 3)"},
       {"--host", "", "measure the host's costs instead of kernels"},
       {"--seed", "S", "of the random operands and group sizes (default 1)"},
       {"--sms", "N", "use at most so many SMs (default: all)"},
       {"--device", "D", "the GPU, by its CUDA ordinal (default: the first Hopper GPU)"},
       kCacheFlag,
       {"--json", "OUT", "also write everything to this file, at the end and all at once"}}};
  return command;
}

std::string version_text() {
  std::int32_t major = 0, minor = 0, patch = 0;
  kiln_version(&major, &minor, &patch);
  return fmt::format("{}.{}.{}", major, minor, patch);
}

struct Request {
  std::vector<NamedProblem> problems;
  Sizing sizing;
  BenchOptions options;
  std::string gpu;  // of the references
  L2Mode mode = L2Mode::kFlush;
  Clock clock = Clock::kAuto;
  int draws = 3;
  bool cublaslt = false;
  bool host = false;
};

bool selected(const std::string& name, std::string_view filter) {
  while (true) {
    const std::size_t comma = filter.find(',');
    const std::string_view word = filter.substr(0, comma);
    if (!word.empty() && name.find(word) != std::string::npos) return true;
    if (comma == std::string_view::npos) return false;
    filter.remove_prefix(comma + 1);
  }
}

// Those of the file that --rows selects.
std::vector<NamedProblem> selected_problems(const Args& args, ShapesFile shapes) {
  const std::optional<std::string> filter = args.text("--rows");
  if (!filter) return std::move(shapes.problems);
  std::vector<NamedProblem> kept;
  for (NamedProblem& p : shapes.problems) {
    if (selected(p.name, *filter)) kept.push_back(std::move(p));
  }
  if (!kept.empty()) return kept;
  throw Error(Status::kInvalidArgument,
              fmt::format("--rows {} selects none of the {} problems of the file: give part of a "
                          "name such as {}",
                          quote(*filter), shapes.problems.size(), quote(shapes.problems[0].name)));
}

Request read_request(const Args& args) {
  Request r;
  const std::string compare = args.text("--compare", "");
  if (!compare.empty() && compare != "cublaslt") {
    throw Error(Status::kInvalidArgument,
                fmt::format("--compare must be cublaslt, got {}", quote(compare)));
  }
  r.cublaslt = !compare.empty();
  r.mode = parse_l2_mode(args.text("--mode", "flush"), "--mode");
  r.options.repeat = static_cast<int>(args.integer("--repeat", 1, 100'000, r.options.repeat));
  r.draws = static_cast<int>(args.integer("--draws", 1, 1000, r.draws));
  r.options.seed = static_cast<std::uint64_t>(args.integer("--seed", 0, INT64_MAX, 1));
  r.sizing.seed = r.options.seed;
  r.host = args.has("--host");
  r.clock = parse_clock(args.text("--clock", "auto"), "--clock");
  if (r.clock == Clock::kCupti && r.mode == L2Mode::kHot)
    throw Error(Status::kInvalidArgument,
                "--clock cupti does not go with --mode hot, whose launches overlap: leave it out");
  for (const char* flag : {"--compare", "--mode", "--repeat", "--draws", "--clock"})
    args.exclude("--host", flag, "it times no kernels");
  ShapesFile shapes = load_shapes(args.required_text("--shapes"));
  r.gpu = shapes.gpu;
  r.problems = selected_problems(args, std::move(shapes));
  return r;
}

// Each problem at each of its M. References are of the first M.
std::vector<std::pair<BenchCase, std::vector<ReferenceTime>>> cases_of(const Request& request) {
  std::vector<std::pair<BenchCase, std::vector<ReferenceTime>>> cases;
  for (const NamedProblem& p : request.problems) {
    for (const std::int64_t m : p.m) {
      Sizing sizing = request.sizing;
      sizing.m = m;
      cases.push_back({{p.name, p.problem, sizing, std::nullopt},
                       m == p.m[0] ? p.references : std::vector<ReferenceTime>{}});
    }
  }
  return cases;
}

// A product whose B is what the clean mode wants to be read: one row of D, and 256 MiB.
BenchCase reader_case() {
  BenchCase c;
  c.problem.k = 8192;
  c.problem.n = static_cast<std::int64_t>(L2State::kCleanBytes) / c.problem.k;
  c.sizing.m = 1;
  return c;
}

class Session {
 public:
  Session(const EngineHandle& engine, const Request& request)
      : request_(request),
        engine_(engine.engine()),
        bench_(engine, request.options),
        references_(engine_.device().info().name.find(request.gpu) != std::string::npos),
        table_(request.problems, request.cublaslt, references_),
        monitor_(open_nvml(engine_.device().info().pci_bus_id, no_nvml_)) {
    if (request.cublaslt) cublaslt_ = CublasLt::open(engine_.device(), no_cublaslt_);
  }

  ExitCode run();
  nlohmann::ordered_json document() const;

 private:
  BenchRow measure(BenchCase c, const std::vector<ReferenceTime>& references);
  BenchRow measure_draw(const BenchCase& c, const std::vector<ReferenceTime>& references);
  void measure_checked(const PreparedCase& prepared, const BenchPlan& plan, BenchRow& row);
  Stopwatch& stopwatch(const Launch& trial);
  void print_head() const;
  void print_foot() const;
  GpuState sample() { return monitor_ ? monitor_->sample() : GpuState(); }

  const Request& request_;
  runtime::Engine& engine_;
  Bench bench_;
  bool references_;  // are of this GPU
  BenchTable table_;
  std::string no_nvml_, no_cublaslt_;
  std::unique_ptr<GpuMonitor> monitor_;
  std::unique_ptr<CublasLt> cublaslt_;
  std::unique_ptr<PreparedCase> reader_;  // of the mode clean
  std::optional<Timer> timer_;            // once a row needed one
  std::vector<BenchRow> rows_;
};

Stopwatch& Session::stopwatch(const Launch& trial) {
  if (timer_) return *timer_->stopwatch;
  TimerOptions options{request_.clock, request_.mode, nullptr, L2State::kLongFlushBytes};
  if (request_.mode == L2Mode::kClean) {
    reader_ = bench_.prepare(reader_case());
    options.read_l2 = reader_->plan(std::nullopt).launch;
  }
  timer_ = open_timer(engine_.device(), options, trial);
  return *timer_->stopwatch;
}

void Session::measure_checked(const PreparedCase& prepared, const BenchPlan& plan, BenchRow& row) {
  std::vector<Launch> launches = {plan.launch};
  if (request_.cublaslt) {
    for (const LtScaling scaling : {LtScaling::kBlockWise, LtScaling::kPerTensor}) {
      LtOffer offer{nullptr, no_cublaslt_};
      if (cublaslt_) offer = cublaslt_->offer(prepared.workload(), prepared.operands(), scaling);
      row.rivals.push_back({std::string(name(scaling)), std::nullopt, offer.reason});
      if (offer.launch) launches.push_back(std::move(offer.launch));
    }
  }
  Stopwatch& watch = stopwatch(plan.launch);
  row.before = sample();
  const Comparison result = compare(watch, launches, {request_.options.repeat, 2});
  row.after = sample();
  row.empty_us = result.empty_us;
  row.timing = result.timings[0];
  std::size_t next = 1;
  for (Rival& rival : row.rivals) {
    if (rival.reason.empty()) rival.timing = result.timings.at(next++);
  }
}

BenchRow Session::measure_draw(const BenchCase& c, const std::vector<ReferenceTime>& references) {
  BenchRow row;
  row.asked = c;
  row.references = references;
  try {
    const std::unique_ptr<PreparedCase> prepared = bench_.prepare(c);
    const BenchPlan plan = prepared->plan(c.tile);
    row.workload = prepared->workload();
    row.total = static_cast<double>(computed_total(row.workload));
    row.plan = plan.description;
    row.flops = prepared->flops();
    row.bytes = prepared->bytes();
    row.roofline_us = prepared->roofline_us();
    row.check = prepared->check(plan.launch);
    if (row.check->passed) measure_checked(*prepared, plan, row);
  } catch (const Error& error) {
    row.status = error.status();
    row.error = error.what();
    row.timing.reset();
  }
  return row;
}

BenchRow Session::measure(BenchCase c, const std::vector<ReferenceTime>& references) {
  BenchRow row = measure_draw(c, references);
  const int draws = jit::is_grouped(c.problem) ? request_.draws : 1;
  for (int i = 1; i < draws && row.passed(); ++i) {
    ++c.sizing.seed;
    row.add_draw(measure_draw(c, references));
  }
  return row;
}

void Session::print_head() const {
  const Peak& peak = bench_.peak();
  print(fmt::format("{}, {} SMs; peak {:.0f} TFLOPS, {:.0f} GB/s; L2 {}, {} samples\n",
                    engine_.device().info().name, engine_.num_sms(), peak.tflops, peak.gb_per_s,
                    name(request_.mode), request_.options.repeat));
  if (cublaslt_) print(fmt::format("cuBLASLt {} ({})\n", cublaslt_->version(), cublaslt_->path()));
  if (!monitor_) print(fmt::format("no clocks and power: {}\n", no_nvml_));
  if (!references_) print(fmt::format("the references are of another GPU: {}\n", request_.gpu));
  print(table_.header());
}

void Session::print_foot() const {
  print(summary_text(rows_));
  if (!timer_) return;
  if (timer_->recorder) {
    print(fmt::format("times of the kernels alone, by CUPTI ({})\n", timer_->recorder->path()));
    return;
  }
  const bool alone = request_.mode != L2Mode::kHot;
  print(fmt::format("times by events{}: {}\n",
                    alone ? ", a few us too long for short kernels" : "", timer_->reason));
}

ExitCode Session::run() {
  print_head();
  ExitCode code = kExitOk;
  for (const auto& [c, references] : cases_of(request_)) {
    rows_.push_back(measure(c, references_ ? references : std::vector<ReferenceTime>{}));
    const BenchRow& row = rows_.back();
    if (!row.error.empty()) {
      print_error(fmt::format("kiln bench: {} M = {}: {}\n", c.name, c.sizing.m, row.error));
    }
    print(table_.line(row));
    std::fflush(stdout);
    if (row.passed()) continue;
    const bool miss = row.status == Status::kFrozen;
    code = miss && code != kExitFailure ? kExitMiss : kExitFailure;
  }
  print_foot();
  return code;
}

nlohmann::ordered_json Session::document() const {
  auto results = nlohmann::ordered_json::array();
  for (const BenchRow& row : rows_) results.push_back(to_json(row));
  nlohmann::ordered_json lt = nullptr;
  if (request_.cublaslt) {
    lt = {{"version", cublaslt_ ? cublaslt_->version() : ""},
          {"path", cublaslt_ ? cublaslt_->path() : ""},
          {"reason", no_cublaslt_}};
  }
  nlohmann::ordered_json clock = nullptr;  // no row needed one
  if (timer_) {
    clock = {{"name", timer_->clock},
             {"path", timer_->recorder ? timer_->recorder->path() : ""},
             {"reason", timer_->reason}};
  }
  return {{"format", 1},
          {"kiln", version_text()},
          {"device", engine_.device().info().name},
          {"num_sms", engine_.num_sms()},
          {"mode", name(request_.mode)},
          {"clock", clock},
          {"repeat", request_.options.repeat},
          {"seed", request_.options.seed},
          {"peak_tflops", bench_.peak().tflops},
          {"peak_gb_per_s", bench_.peak().gb_per_s},
          {"nvml", {{"reason", no_nvml_}}},
          {"cublaslt", lt},
          {"references", {{"gpu", request_.gpu}, {"used", references_}}},
          {"results", results},
          {"mean_speedups", to_json(mean_speedups(rows_))}};
}

std::string text_of(const nlohmann::ordered_json& document) {
  return document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

int run_kernels(const Request& request, const kiln_engine_options& options, OutputFile* json) {
  const EngineHandle engine = open_engine(options);
  Session session(engine, request);
  const ExitCode code = session.run();
  if (json != nullptr) json->write(text_of(session.document()));
  return code;
}

int run_host(const Request& request, const kiln_engine_options& options, OutputFile* json) {
  std::vector<BenchCase> cases;
  for (auto& [c, references] : cases_of(request)) cases.push_back(c);
  const EngineHandle engine = open_engine(options);  // says what is wrong with the device
  const HostCosts costs = measure_host_costs(options, cases);
  print(host_costs_text(costs));
  if (json == nullptr) return kExitOk;
  json->write(text_of({{"format", 1},
                       {"kiln", version_text()},
                       {"device", engine.engine().device().info().name},
                       {"num_sms", engine.engine().num_sms()},
                       {"host", to_json(costs)}}));
  return kExitOk;
}

}  // namespace

int bench_command(Words words) {
  const Args args(command(), words);
  if (args.wants_help()) {
    print(help_text(command()));
    return kExitOk;
  }
  const Request request = read_request(args);
  std::optional<OutputFile> json;
  if (args.has("--json")) json.emplace(args.text("--json", ""), "--json");
  const std::string cache_dir = cache_directory(args);
  const std::optional<std::int64_t> device = args.integer("--device", 0, 1023);
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  options.num_sms = static_cast<std::int32_t>(args.integer("--sms", 1, 1024, 0));
  options.cache_dir = cache_dir.c_str();
  options.device = find_device(device);  // last: a wrong command line is wrong without a GPU too
  OutputFile* const output = json ? &*json : nullptr;
  return request.host ? run_host(request, options, output) : run_kernels(request, options, output);
}

}  // namespace kiln::tools
