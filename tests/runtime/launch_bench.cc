// CPU time of kiln_launch against a bare cuLaunchKernelEx in the same run, and the time from a disk
// hit to a loaded kernel. Needs a Hopper GPU and NVRTC; prints one line for each, exits 1 without.
//
// The bare launch is of an empty kernel with one parameter struct of the same size. Both enqueue on
// an idle stream, a few at a time, so that neither waits for the GPU.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/device_memory.h"
#include "runtime/handles.h"
#include "templates/params.cuh"

namespace {

using namespace kiln;

void check(kiln_status status, const char* what) {
  if (status == KILN_OK) return;
  std::fprintf(stderr, "launch_bench: %s: %s: %s\n", what, kiln_status_string(status),
               kiln_last_error());
  std::exit(1);
}

double now_us() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) * 1e-3;
}

struct Times {
  double median, p10, p90;
};

Times summarise(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times[times.size() / 10], times[times.size() * 9 / 10]};
}

// CPU microseconds of each call of one(), in batches that the launch queue holds easily.
template <class One>
Times time_launches(const runtime::Stream& stream, One&& one) {
  constexpr int kBatches = 200, kBatch = 50;
  std::vector<double> times;
  for (int batch = 0; batch < kBatches; ++batch) {
    for (int i = 0; i < kBatch; ++i) {
      const double begin = now_us();
      one();
      if (batch > 0) times.push_back(now_us() - begin);
    }
    stream.synchronize();
  }
  return summarise(std::move(times));
}

// An empty kernel that takes what a GEMM takes, built with the engine's own compiler.
runtime::LoadedKernel load_empty_kernel(const runtime::Engine& engine) {
  jit::Source source;
  source.program_name = "kiln_empty.cu";
  source.entry = "kiln_empty";
  source.text =
      "#include \"params.cuh\"\nextern \"C\" __global__ void kiln_empty(const __grid_constant__ "
      "GemmParams p) {}\n";
  const auto compiler =
      jit::open_nvrtc(runtime::nvrtc_search(nullptr, runtime::Environment::read()));
  jit::CompiledKernel compiled = compiler->compile(source);
  cache::Entry entry;
  entry.description = entry.kernel_name = source.entry;
  entry.threads = 128;
  entry.param_bytes = sizeof(device::GemmParams);
  entry.registers = static_cast<std::uint32_t>(compiled.resources.registers);
  entry.cubin = std::move(compiled.cubin);
  return runtime::LoadedKernel::load(engine.device(), entry, runtime::describe_entry(entry, false));
}

void bench_launch(kiln_engine* engine, bool m_major) {
  runtime::Engine& internals = runtime::engine_of(engine);
  const runtime::Device& gpu = internals.device();
  const runtime::Stream stream(gpu);
  constexpr std::int64_t kM = 64, kN = 512, kK = 512;
  const runtime::DeviceBuffer a(gpu, kM * kK), b(gpu, kN * kK), d(gpu, kM * kN * 2),
      sfa(gpu, kM * 16), sfb(gpu, 64);
  kiln_problem problem = KILN_PROBLEM_INIT;
  problem.n = kN;
  problem.k = kK;
  problem.sfa_major = m_major ? KILN_SCALE_M_MAJOR : KILN_SCALE_ROW_MAJOR;
  kiln_plan* plan = nullptr;
  check(kiln_plan_create(engine, &problem, nullptr, &plan), "kiln_plan_create");
  check(kiln_plan_prepare(plan, kM, kM), "kiln_plan_prepare");
  kiln_operands o = KILN_OPERANDS_INIT;
  o.m = kM;
  o.a = a.data();
  o.b = b.data();
  o.lda = o.ldb = kK;
  o.sfa = sfa.data<float>();
  o.sfb = sfb.data<float>();
  o.ld_sfa = m_major ? kM : kK / 128;
  o.ld_sfb = kK / 128;
  o.d = d.data();
  o.ldd = kN;

  const runtime::LoadedKernel empty = load_empty_kernel(internals);
  const runtime::Driver& driver = gpu.driver();
  const runtime::ContextScope scope(driver, gpu.context());  // as a framework has it
  device::GemmParams params{};
  void* arguments[] = {&params};
  CUlaunchConfig config{};
  config.gridDimX = config.gridDimY = config.gridDimZ = 1;
  config.blockDimX = 128;
  config.blockDimY = config.blockDimZ = 1;
  config.hStream = stream.get();
  const Times bare = time_launches(stream, [&] {
    driver.check(driver.cuLaunchKernelEx(&config, empty.function(), arguments, nullptr),
                 "cuLaunchKernelEx");
  });
  const Times ours =
      time_launches(stream, [&] { check(kiln_launch(plan, &o, stream.get()), "kiln_launch"); });
  std::printf(
      "launch, %s SFA: kiln_launch %.2f us (p10 %.2f, p90 %.2f), bare cuLaunchKernelEx %.2f us "
      "(p10 %.2f, p90 %.2f), "
      "difference of medians %.2f us (at most 1.5)\n",
      m_major ? "M-major" : "row-major", ours.median, ours.p10, ours.p90, bare.median, bare.p10,
      bare.p90, ours.median - bare.median);
  kiln_plan_destroy(plan);
}

// Warms a directory, then times first launches' worth of work in new engines: lookup, load, checks.
void bench_hit(int device) {
  std::string pattern = (std::filesystem::temp_directory_path() / "kiln-bench-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) std::exit(1);
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  options.device = device;
  options.cache_dir = pattern.c_str();
  std::vector<double> times;
  for (int round = 0; round < 31; ++round) {
    kiln_engine* engine = nullptr;
    check(kiln_engine_create(&options, &engine), "kiln_engine_create");
    runtime::Engine& internals = runtime::engine_of(engine);
    for (int i = 0; i < 2; ++i) {  // the first opens NVRTC for its identity, which is not the hit
      jit::Problem problem;
      problem.n = 4096;
      problem.k = 7168 + 128 * i;
      const jit::KernelSpec spec{
          jit::GemmSpec{problem, jit::choose_tile(problem, 4096, internals.machine())}, {}};
      const double begin = now_us();
      const auto& kernel = internals.kernel_for(spec);
      if (i == 1 && round > 0 && kernel.info().from_disk) times.push_back(now_us() - begin);
    }
    kiln_engine_destroy(engine);
  }
  std::filesystem::remove_all(pattern);
  if (times.empty()) {
    std::fprintf(stderr, "launch_bench: no kernel came from disk\n");
    std::exit(1);
  }
  const Times hit = summarise(std::move(times));
  std::printf("hit, from disk to loaded kernel: %.2f ms (p10 %.2f, p90 %.2f; at most 3)\n",
              hit.median * 1e-3, hit.p10 * 1e-3, hit.p90 * 1e-3);
}

}  // namespace

int main() {
  kiln_probe_report report = KILN_PROBE_REPORT_INIT;
  check(kiln_probe(nullptr, &report), "kiln_probe");
  if (report.hopper_device < 0 || !report.has_compiler) {
    std::fprintf(stderr, "launch_bench: needs a Hopper GPU and NVRTC: %s %s %s\n",
                 report.driver_message, report.device_message, report.compiler_message);
    return 1;
  }
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  kiln_engine* engine = nullptr;
  options.device = report.hopper_device;
  check(kiln_engine_create(&options, &engine), "kiln_engine_create");
  try {
    bench_launch(engine, false);
    bench_launch(engine, true);
    bench_hit(report.hopper_device);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "launch_bench: %s\n", error.what());
    return 1;
  }
  kiln_engine_destroy(engine);
  return 0;
}
