#include "runtime/engine.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "runtime/strict_json.h"
#include "runtime/text.h"

namespace kiln::runtime {
namespace {

constexpr std::int32_t kMaxNumSms = 1024;

double ms_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}

std::unique_ptr<const Device> open_device(const EngineOptions& options) {
  if (options.device == kDeviceNone) {
    jit::parse_arch(jit::name(options.arch), "arch");
    return nullptr;
  }
  if (options.device < 0 && options.device != kDeviceCurrent) {
    throw Error(
        Status::kInvalidArgument,
        fmt::format("device must be an ordinal >= 0, KILN_DEVICE_NONE (-1) or KILN_DEVICE_CURRENT "
                    "(-2), got {}",
                    options.device));
  }
  std::shared_ptr<const Driver> driver = Driver::open(options.hooks.driver_library);
  return options.device == kDeviceCurrent ? Device::current(std::move(driver))
                                          : Device::open(std::move(driver), options.device);
}

std::int32_t choose_num_sms(const EngineOptions& options, const Device* device) {
  if (device == nullptr) {
    if (options.num_sms >= 1 && options.num_sms <= kMaxNumSms) return options.num_sms;
    throw Error(
        Status::kInvalidArgument,
        fmt::format("num_sms must be in 1..{} for an engine without a device, got {}: give the SM "
                    "count of the GPU that will run the kernels, e.g. 132 for an H100 SXM or H200",
                    kMaxNumSms, options.num_sms));
  }
  const int available = device->info().num_sms;
  if (options.num_sms >= 0 && options.num_sms <= available) {
    return options.num_sms == 0 ? available : options.num_sms;
  }
  throw Error(Status::kInvalidArgument,
              fmt::format("num_sms must be 0 (all) or at most the {} SMs of device {} ({}), got {}",
                          available, device->info().ordinal, device->info().name, options.num_sms));
}

TunedTable read_tuned(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored))  // opening a pipe could wait for ever
    throw Error(Status::kInvalidArgument, fmt::format("{}: is not a regular file", path));
  return TunedTable::load(read_file(path), path);
}

// At most one warning for each file; what is wrong with one stops no other.
TunedTables load_tuned(const EngineOptions& options, std::int32_t num_sms, const Log& log) {
  TunedTables tables;
  const auto warn = [&](const std::string& message) {
    log.write(LogLevel::kWarning, fmt::format("tuned tiles: {}", message));
  };
  for (const std::string& path : options.tuned_files) {
    try {
      TunedTable table = read_tuned(path);
      if (table.file().num_sms != num_sms) {
        warn(fmt::format("{} is for {} with {} SMs, and this engine has {}: the file is ignored",
                         path, quote(table.file().gpu), table.file().num_sms, num_sms));
        continue;
      }
      if (table.num_rejected() > 0)
        warn(fmt::format("{} of the {} entries are ignored; the first: {}", table.num_rejected(),
                         table.num_rejected() + table.file().entries.size(),
                         table.first_rejection()));
      tables.add(std::move(table));
    } catch (const Error& error) {
      warn(fmt::format("{}: the file is ignored", error.what()));
    }
  }
  if (!options.builtin_tuned) return tables;
  // It is checked by the tests, so it is whole; another GPU than its own is nothing to warn about.
  TunedTable builtin = TunedTable::load(options.hooks.tuned_text, std::string(kBuiltinTunedSource));
  if (builtin.file().num_sms == num_sms) tables.add(std::move(builtin));
  return tables;
}

}  // namespace

Engine::Engine(EngineOptions options)
    : options_(std::move(options)),
      log_(options_.log),
      device_(open_device(options_)),
      num_sms_(choose_num_sms(options_, device_.get())),
      miss_policy_(options_.miss_policy),
      tuned_(load_tuned(options_, num_sms_, log_)),
      source_(options_, log_, miss_policy_) {
  if (options_.miss_policy != MissPolicy::kNotReady || options_.background_jobs == 0) return;
  const auto build = [this](const jit::KernelSpec& spec, std::string_view why) {
    kernel_for(spec, why);
  };
  background_ = std::make_unique<BackgroundBuilds>(options_.background_jobs, build, log_);
}

Engine::~Engine() { background_.reset(); }

// ---- The central path ----

const LoadedKernel& Engine::kernel_for(const jit::KernelSpec& spec, std::string_view why) {
  device();
  bool is_new = false;
  const LoadedKernel& kernel = loaded_.get_or_build(spec, [&] {
    is_new = true;
    LoadedKernel built = build_loaded(spec);
    log_built(spec, built.info(), why);
    return built;
  });
  if (!is_new) memory_hits_.fetch_add(1, std::memory_order_relaxed);
  return kernel;
}

const KernelInfo& Engine::prepare(const jit::KernelSpec& spec, std::string_view why) {
  if (has_device()) return kernel_for(spec, why).info();
  bool is_new = false;
  const KernelInfo& kernel = compiled_.get_or_build(spec, [&] {
    is_new = true;
    KernelInfo info = build_cubin(spec);
    log_built(spec, info, why);
    return info;
  });
  if (!is_new) memory_hits_.fetch_add(1, std::memory_order_relaxed);
  return kernel;
}

LoadedKernel Engine::build_loaded(const jit::KernelSpec& spec) {
  const auto load = [&](const Cubin& cubin, double lookup_ms) {
    KernelInfo info = describe_entry(cubin.entry, cubin.from_disk);
    info.miss_reason = cubin.miss_reason;
    info.load_ms = cubin.from_disk ? lookup_ms : 0;
    LoadedKernel kernel = LoadedKernel::load(device(), cubin.entry, std::move(info));
    loads_.fetch_add(1, std::memory_order_relaxed);
    return kernel;
  };
  const auto begin = std::chrono::steady_clock::now();
  const Cubin cubin = cubin_for(spec);
  if (!cubin.from_disk) return load(cubin, 0);
  try {
    return load(cubin, ms_since(begin));
  } catch (const BadCubin& error) {
    log_.write(LogLevel::kWarning,
               fmt::format("{}; it is set aside and compiled again", error.what()));
  }
  disk_cache().reject(cubin.entry.key);
  return load(cubin_for(spec, Lookup::kSkip), 0);
}

KernelInfo Engine::build_cubin(const jit::KernelSpec& spec) {
  const Cubin cubin = cubin_for(spec);
  KernelInfo info = describe_entry(cubin.entry, cubin.from_disk);
  info.miss_reason = cubin.miss_reason;
  return info;
}

// ---- What may happen when ----

const LoadedKernel& Engine::kernel_at_launch(const jit::KernelSpec& spec, CUstream stream,
                                             std::string_view why) {
  if (const LoadedKernel* kernel = find_loaded(spec)) {
    memory_hits_.fetch_add(1, std::memory_order_relaxed);
    return *kernel;
  }
  const Driver& driver = device().driver();
  if (is_capturing(driver, stream)) throw not_ready(spec, why, true);
  if (miss_policy() == MissPolicy::kNotReady) throw not_ready(spec, why, false);
  const ContextScope scope(driver, device().context());
  // The default streams belong to the current context, which may only now be the engine's.
  if (scope.pushed() && is_capturing(driver, stream)) throw not_ready(spec, why, true);
  return kernel_for(spec, why);
}

Error Engine::not_ready(const jit::KernelSpec& spec, std::string_view why, bool is_capture) {
  using Answer = BackgroundBuilds::Answer;
  BackgroundBuilds::Reply reply{Answer::kStopped, {}};
  if (background_ != nullptr && miss_policy() == MissPolicy::kNotReady)
    reply = background_->request(spec, why);
  if (reply.answer == Answer::kFailed && !is_capture) {
    return Error(reply.failure.status,
                 fmt::format("building it in the background failed, and only kiln_plan_prepare "
                             "tries it again: {}",
                             reply.failure.message));
  }
  std::string_view reason = "the engine's miss policy is not-ready";
  std::string_view remedy = "call kiln_plan_prepare (or kiln_quantizer_prepare) beforehand";
  if (is_capture) reason = "the stream is being captured";
  if (reply.answer == Answer::kQueued || (reply.answer == Answer::kFull && !is_capture)) {
    reason = reply.answer == Answer::kQueued ? "it is being built in the background"
                                             : "the queue of background builds is full";
    remedy = "launch again later";
  }
  return Error(Status::kNotReady, fmt::format("the kernel of {} is not loaded, and {}: {}",
                                              jit::describe(spec), reason, remedy));
}

void Engine::freeze() {
  miss_policy_.store(MissPolicy::kFrozen, std::memory_order_release);
  if (background_ != nullptr) background_->cancel();
}

void Engine::refuse_in_capture(const char* what) const {
  if (!has_device()) return;
  const ContextScope scope(device().driver(), device().context());
  if (!is_capturing(device().driver(), CU_STREAM_LEGACY) &&
      !is_capturing(device().driver(), CU_STREAM_PER_THREAD)) {
    return;
  }
  throw Error(Status::kCapturing,
              fmt::format("{} may compile and load kernels and was called while a stream "
                          "is being captured: call it before the capture begins",
                          what));
}

// ---- Questions ----

BackgroundBuilds::Counts Engine::background() const {
  return background_ != nullptr ? background_->counts() : BackgroundBuilds::Counts{};
}

const KernelInfo* Engine::find_prepared(const jit::KernelSpec& spec) const {
  if (!has_device()) return compiled_.find(spec);
  const LoadedKernel* kernel = loaded_.find(spec);
  return kernel != nullptr ? &kernel->info() : nullptr;
}

const Device& Engine::device() const {
  if (device_ != nullptr) return *device_;
  throw Error(
      Status::kNoDevice,
      "the engine was created with KILN_DEVICE_NONE: it plans, compiles and caches, but cannot "
      "launch; create one with a device ordinal or KILN_DEVICE_CURRENT");
}

void Engine::log_built(const jit::KernelSpec& spec, const KernelInfo& info,
                       std::string_view why) const {
  if (!log_.enabled(LogLevel::kInfo)) return;
  log_.write(
      LogLevel::kInfo,
      fmt::format("{} {} in {:.1f} ms{}: {} registers, {} bytes spilled, {} bytes of shared "
                  "memory, cubin of {} bytes, key {}{}{}",
                  info.from_disk ? "found" : "compiled", jit::describe(spec),
                  info.from_disk ? info.load_ms : info.compile_ms + info.load_ms,
                  info.from_disk ? "" : fmt::format(" (not from the cache: {})", info.miss_reason),
                  info.registers, info.spill_bytes,
                  info.launch.dynamic_smem_bytes + info.static_smem_bytes, info.cubin_bytes,
                  info.key, why.empty() ? "" : ": ", why));
}

}  // namespace kiln::runtime
