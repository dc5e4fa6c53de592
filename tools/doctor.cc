// kiln doctor: what was found on this machine, whether it works, and what is missing.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>

#include "runtime/device_memory.h"
#include "runtime/options.h"
#include "templates/params.cuh"
#include "tools/args.h"
#include "tools/cache_directory.h"
#include "tools/commands.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

const Command kCommand{
    "doctor",
    "say what was found on this machine and what is missing",
    "[--cache DIR] [--nvrtc PATH] [--json]",
    R"(
Compiles a small kernel and, with a Hopper GPU, runs it: what is called ok here has worked.

JSON keys: compiler {state, version, path, message}, driver {state, version, path, message}, device
{state, ordinal, name, num_sms, message}, cache {state, directory, message}, environment {each
variable: its value or null}, can_compile, can_run. States: ok, missing, broken; of the cache:
usable, absent, disabled, read-only, untrusted, unusable.

Exit codes: 0 kernels can be compiled or run here; 1 what is there does not work; 3 there is neither
a compiler nor a usable GPU.)",
    {kCacheFlag,
     {"--nvrtc", "PATH", "the libnvrtc file or its directory (default: KILN_NVRTC, else search)"},
     {"--json", "", "print JSON"}},
};

struct Part {
  std::string state = "missing";  // ok, missing, broken
  std::string what;               // version or name
  std::string path;
  std::string message;  // why not, and the remedy

  bool ok() const { return state == "ok"; }
};

struct CacheState {
  std::string directory;
  std::string state;
  std::string message;
};

struct Findings {
  kiln_probe_report probe = KILN_PROBE_REPORT_INIT;
  Part compiler, driver, device;
  CacheState cache;
};

kiln_engine_options test_engine_options(const char* nvrtc_path) {
  kiln_engine_options options = offline_options(jit::Arch{}, 132);
  options.cache_dir = "";  // a hit would prove nothing
  options.cache_path = "";
  options.miss_policy = KILN_MISS_BLOCK;
  options.nvrtc_path = nvrtc_path;
  return options;
}

// Opening the library is not enough: its second half, libnvrtc-builtins, is loaded by a compile.
Part check_compiler(const kiln_probe_report& probe, const char* nvrtc_path) {
  Part part;
  part.path = probe.compiler_path;
  part.message = probe.compiler_message;
  if (probe.has_compiler == 0) return part;
  part.what = fmt::format("NVRTC {}.{}", probe.compiler_major, probe.compiler_minor);
  try {
    const EngineHandle engine(test_engine_options(nvrtc_path));
    const runtime::Cubin cubin = engine.engine().cubin_for({jit::FillSpec{}, jit::Arch{}});
    part.state = "ok";
    part.message =
        fmt::format("compiled a test kernel in {:.0f} ms", cubin.entry.compile_us / 1000.0);
  } catch (const Error& error) {
    part.state = "broken";
    part.message = error.what();
  }
  return part;
}

Part check_driver(const kiln_probe_report& probe) {
  Part part;
  part.path = probe.driver_path;
  part.message = probe.driver_message;
  if (probe.has_driver == 0) return part;
  part.state = "ok";
  part.what =
      fmt::format("CUDA {}.{}", probe.driver_version / 1000, probe.driver_version % 1000 / 10);
  return part;
}

// Fills a buffer on the device and looks whether anything arrived.
void run_test_kernel(const kiln_probe_report& probe, const char* nvrtc_path) {
  kiln_engine_options options = test_engine_options(nvrtc_path);
  options.device = probe.hopper_device;
  options.arch = 0;
  options.num_sms = 0;
  const EngineHandle handle(options);
  runtime::Engine& engine = handle.engine();
  const runtime::LoadedKernel& kernel = engine.kernel_for({jit::FillSpec{}, engine.arch()});
  constexpr std::size_t kCount = 4096;
  const runtime::DeviceBuffer buffer(engine.device(), kCount * sizeof(std::uint16_t));
  const runtime::Stream stream(engine.device());
  const runtime::ContextScope scope(engine.device().driver(), engine.device().context());
  buffer.fill(0xff, stream.get());
  const device::FillParams params{buffer.data(), kCount, 1};
  kernel.launch(1, &params, stream.get());
  stream.synchronize();
  for (const std::uint16_t value : buffer.to_host<std::uint16_t>()) {
    if (value == 0xffff)
      throw Error(Status::kDriverError, "the test kernel ran but left its output unwritten");
  }
}

Part check_device(const kiln_probe_report& probe, bool can_compile, const char* nvrtc_path) {
  Part part;
  part.message = probe.device_message;
  if (probe.hopper_device < 0) return part;
  part.what = fmt::format("device {}: {}, {} SMs", probe.hopper_device, probe.device_name,
                          probe.hopper_num_sms);
  part.state = "ok";
  if (!can_compile) {
    part.message = "not tried: that takes a compiler, or kernels that are in the cache";
    return part;
  }
  try {
    run_test_kernel(probe, nvrtc_path);
    part.message = "ran a test kernel";
  } catch (const Error& error) {
    part.state = "broken";
    part.message = error.what();
  }
  return part;
}

// Looks without touching: a directory that is not there yet is not made by asking after it.
CacheState check_cache(const Args& args) {
  CacheState found;
  found.directory = cache_directory(args);
  std::error_code ignored;
  if (!found.directory.empty() && !std::filesystem::exists(found.directory, ignored)) {
    found.state = "absent";
    found.message = "it is made when the first kernel is stored";
    return found;
  }
  cache::Options options;
  options.directory = found.directory;
  const cache::DiskCache cache(options);
  found.state = cache::name(cache.state());
  found.message = cache.state_message();
  return found;
}

using Variables = std::vector<std::pair<const char*, std::optional<std::string>>>;
Variables environment_variables() {
  const runtime::Environment environment = runtime::Environment::read();
  return {{"KILN_CACHE_DIR", environment.cache_dir},
          {"KILN_CACHE_PATH", environment.cache_path},
          {"KILN_CHECK_GROUPS", environment.check_groups},
          {"KILN_LOG_LEVEL", environment.log_level},
          {"KILN_NO_COMPILE", environment.no_compile},
          {"KILN_NVRTC", environment.nvrtc},
          {"KILN_TUNED", environment.tuned},
          {"KILN_VERIFY", environment.verify}};
}

nlohmann::ordered_json to_json(const Findings& found) {
  nlohmann::ordered_json environment;
  for (const auto& [name, value] : environment_variables()) {
    environment[name] = value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  }
  const bool has_device = found.probe.hopper_device >= 0;
  return {
      {"compiler",
       {{"state", found.compiler.state},
        {"version", fmt::format("{}.{}", found.probe.compiler_major, found.probe.compiler_minor)},
        {"path", found.compiler.path},
        {"message", found.compiler.message}}},
      {"driver",
       {{"state", found.driver.state},
        {"version", found.probe.driver_version},
        {"path", found.driver.path},
        {"message", found.driver.message}}},
      {"device",
       {{"state", found.device.state},
        {"ordinal", found.probe.hopper_device},
        {"name", has_device ? found.probe.device_name : ""},
        {"num_sms", found.probe.hopper_num_sms},
        {"message", found.device.message}}},
      {"cache",
       {{"state", found.cache.state},
        {"directory", found.cache.directory},
        {"message", found.cache.message}}},
      {"environment", environment},
      {"can_compile", found.compiler.ok()},
      {"can_run", found.device.ok()}};
}

std::string part_text(std::string_view title, const Part& part) {
  std::string out = fmt::format("{:<9} {:<8} {}\n", title, part.state, part.what);
  if (!part.path.empty()) out += fmt::format("{:<18} {}\n", "", part.path);
  if (!part.message.empty()) out += fmt::format("{:<18} {}\n", "", part.message);
  return out;
}

void print_text(const Findings& found) {
  print(part_text("compiler", found.compiler) + part_text("driver", found.driver) +
        part_text("device", found.device));
  print(fmt::format("{:<9} {:<8} {}\n", "cache", found.cache.state,
                    found.cache.directory.empty() ? "(no directory)" : found.cache.directory));
  if (!found.cache.message.empty()) print(fmt::format("{:<18} {}\n", "", found.cache.message));
  for (const auto& [name, value] : environment_variables()) {
    print(fmt::format("{:<18} {}\n", name, value ? quote(*value) : "not set"));
  }
  const bool can_compile = found.compiler.ok();
  const bool can_run = found.device.ok();
  print(fmt::format("\nThis machine {} kernels and {}.\n",
                    can_compile ? "can compile" : "cannot compile",
                    can_run && can_compile ? "can run them"
                    : can_run              ? "can run those that are in the cache"
                                           : "cannot run them"));
}

}  // namespace

int doctor(Words words) {
  const Args args(kCommand, words);
  if (args.wants_help()) {
    print(help_text(kCommand));
    return kExitOk;
  }
  const std::optional<std::string> nvrtc = args.text("--nvrtc");
  const char* nvrtc_path = nvrtc ? nvrtc->c_str() : nullptr;
  Findings found;
  check(kiln_probe(nvrtc_path, &found.probe));
  found.compiler = check_compiler(found.probe, nvrtc_path);
  found.driver = check_driver(found.probe);
  found.device = check_device(found.probe, found.compiler.ok(), nvrtc_path);
  found.cache = check_cache(args);
  if (args.has("--json")) {
    print_json(to_json(found));
  } else {
    print_text(found);
  }
  if (found.compiler.ok() || found.device.ok()) return kExitOk;
  const bool broken = found.compiler.state == "broken" || found.device.state == "broken";
  return broken ? kExitFailure : kExitNoDevice;
}

}  // namespace kiln::tools
